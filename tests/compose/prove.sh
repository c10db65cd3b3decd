#!/bin/sh
# Proves docker-compose.yml on a real Docker engine: builds the image, starts everything, measures until it is healthy,
# looks at results, metrics, rights and decisions, drains it by SIGTERM, and takes it down again.
#
#   make compose-proof           # or: tests/compose/prove.sh [FOLDER]
#
# FOLDER (/tmp/streamspec-compose-proof) keeps the engine's images, so that a second run is quick.
#
# An engine that answers is used. Otherwise root starts one of its own in FOLDER (Debian: docker.io, iptables), and at
# the end stops it and puts the packet filter back. Each Compose that is there is proven: `docker-compose` (1.29, Debian
# bookworm), `docker compose`, and what $COMPOSE names.
#
# Base images come from their registry. Where that cannot be reached, stand-ins get their names (debootstrap, Maven):
#   python      Debian's python3.11 on a minimal bookworm, with this machine's settings for pip and its certificates
#   kafka       the jars of the same version with Debian's Java; settings go through the class that the image uses
#   prometheus  Debian's package, which is older (2.42)
#   grafana     none: it is left out, and said so
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(realpath -m "${1:-/tmp/streamspec-compose-proof}")
here=$root/tests/compose
mkdir -p "$work"

say() { printf '%s\n' "== $*"; }
fail() { printf '%s\n' "prove.sh: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "needs $1; next: $2"; }

# -- the engine ------------------------------------------------------------------------------------
engine=""
end() {
    code=$?
    trap - EXIT INT TERM
    [ -z "${compose:-}" ] || $compose -p streamspec-proof down -v --timeout 45 >/dev/null 2>&1 || true
    if [ -n "$engine" ]; then
        kill "$engine" 2>/dev/null || true
        for _ in $(seq 100); do kill -0 "$engine" 2>/dev/null || break; sleep 0.2; done
        ip link delete docker0 2>/dev/null || true
        iptables-restore < "$work/iptables.before" || true
        cat "$work/ip_forward.before" > /proc/sys/net/ipv4/ip_forward || true
    fi
    exit "$code"
}
trap end EXIT INT TERM

need docker "apt-get install docker.io"
if ! docker info >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] || fail "no Docker engine answers, and only root can start one; next: start it, or run as root"
    need dockerd "apt-get install docker.io"
    need iptables-save "apt-get install iptables"
    iptables-save > "$work/iptables.before"
    cat /proc/sys/net/ipv4/ip_forward > "$work/ip_forward.before"
    export DOCKER_HOST="unix://$work/docker.sock"
    dockerd --data-root "$work/engine" --exec-root "$work/run" --pidfile "$work/dockerd.pid" --host "$DOCKER_HOST" \
        > "$work/dockerd.log" 2>&1 &
    engine=$!
    for _ in $(seq 100); do
        docker info >/dev/null 2>&1 && break
        kill -0 "$engine" 2>/dev/null || fail "the engine ended: $(tail -3 "$work/dockerd.log")"
        sleep 0.3
    done
fi
say "engine: $(docker version --format '{{.Server.Version}}'), $(docker info --format '{{.Driver}}')"

# -- base images -----------------------------------------------------------------------------------
image_of() { sed -n "s|^ *image: \($1:.*\)|\1|p" "$root/docker-compose.yml" | head -1; }
python_image=$(sed -n 's/^ARG PYTHON_IMAGE=//p' "$root/Dockerfile")
kafka_image=$(image_of apache/kafka)
prometheus_image=$(image_of prom/prometheus)
grafana_image=$(image_of grafana/grafana)
stand_ins=""

# Whether the image is there or can be fetched; the first failure answers for all.
registry=""
have() {
    docker image inspect "$1" >/dev/null 2>&1 && return
    [ "$registry" != unreachable ] || return 1
    timeout 600 docker pull "$1" || { registry=unreachable; return 1; }
}

debian() {
    docker image inspect streamspec-proof/debian >/dev/null 2>&1 && return
    need debootstrap "apt-get install debootstrap, as root"
    say "a minimal Debian bookworm"
    rm -rf "$work/debian"
    debootstrap --variant=minbase --include=ca-certificates bookworm "$work/debian" > "$work/debootstrap.log"
    # What this machine needs to reach package servers: pip's and apt's settings, certificates, and nothing of it
    # is written into the project.
    for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt /etc/apt/apt.conf.d/9*; do
        if [ -f "$file" ]; then install -D -m 644 "$file" "$work/debian$file"; fi
    done
    set --
    for name in PIP_CERT PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT; do
        value=$(printenv "$name" || true)
        if [ -n "$value" ]; then set -- "$@" --change "ENV $name=$value"; fi
    done
    chroot "$work/debian" apt-get clean
    tar -C "$work/debian" -c . | docker import "$@" - streamspec-proof/debian >/dev/null
    rm -rf "$work/debian"
}

# stand_in NAME CONTEXT: an image by that name from the Dockerfile on standard input.
stand_in() {
    debian
    say "stand-in for $1"
    docker build --quiet --network host --tag "$1" --file - "$2" >/dev/null
}
# Those of earlier runs are stand-ins still.
is_stand_in() { [ "$(docker image inspect --format '{{.Config.Labels.stand_in}}' "$1" 2>/dev/null)" = yes ]; }
mkdir -p "$work/empty"

have "$python_image" || stand_in "$python_image" "$work/empty" <<'END'
FROM streamspec-proof/debian
LABEL stand_in=yes
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3.11 python3.11-venv \
    && rm -rf /var/lib/apt/lists/* && ln -s /usr/bin/python3.11 /usr/local/bin/python
END

if ! have "$kafka_image"; then
    need mvn "apt-get install maven"
    mkdir -p "$work/kafka"
    mvn -q -B -f "$root/tests/kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$work/kafka/libs" >/dev/null
    stand_in "$kafka_image" "$work/kafka" <<'END'
FROM streamspec-proof/debian
LABEL stand_in=yes
RUN apt-get update -q && apt-get install -y -q --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home appuser
COPY libs /opt/kafka/libs
RUN mkdir -p /opt/kafka/config /etc/kafka/docker /mnt/shared/config /var/lib/kafka/data \
    && touch /etc/kafka/docker/server.properties /etc/kafka/docker/log4j2.yaml /etc/kafka/docker/tools-log4j2.yaml \
    && printf '#!/bin/bash\nset -e\noptions="$KAFKA_HEAP_OPTS $KAFKA_JVM_PERFORMANCE_OPTS"\njava $options -cp "/opt/kafka/libs/*" kafka.docker.KafkaDockerWrapper setup -D /etc/kafka/docker -M /mnt/shared/config -F /opt/kafka/config\nexec java $options -cp "/opt/kafka/libs/*" kafka.Kafka /opt/kafka/config/server.properties\n' \
        > /etc/kafka/docker/run \
    && chmod +x /etc/kafka/docker/run \
    && chown -R appuser /opt/kafka/config /etc/kafka /mnt/shared /var/lib/kafka
USER appuser
VOLUME ["/var/lib/kafka/data"]
EXPOSE 9092
CMD ["/etc/kafka/docker/run"]
END
fi

have "$prometheus_image" || stand_in "$prometheus_image" "$work/empty" <<'END'
FROM streamspec-proof/debian
LABEL stand_in=yes
RUN apt-get update -q && apt-get install -y -q --no-install-recommends prometheus wget \
    && rm -rf /var/lib/apt/lists/* && install -d -o nobody -g nogroup /prometheus
USER nobody
ENTRYPOINT ["/bin/prometheus"]
END

services="kafka topics streamspec loadgen prometheus addresses"
grafana=no
if have "$grafana_image"; then grafana=yes; services="$services grafana"; fi
for image in "$python_image" "$kafka_image" "$prometheus_image"; do
    if is_stand_in "$image"; then stand_ins="$stand_ins $image"; fi
done

# -- our image -------------------------------------------------------------------------------------
say "building the image"
started=$(date +%s)
docker build --network host --tag streamspec:0.1.0 "$root" > "$work/build.log" 2>&1 || fail "$(tail -20 "$work/build.log")"
say "built in $(($(date +%s) - started)) s, $(($(docker image inspect --format '{{.Size}}' streamspec:0.1.0) / 1000000)) MB"

# Capabilities: handed on to the user when the container has them, and no obstacle when it has none.
mkdir -p "$work/stub"
printf '#!/bin/sh\nsed -n "s/^CapEff:.//p" /proc/self/status\n' > "$work/stub/streamspec"
chmod +x "$work/stub/streamspec"
rights() {
    docker run --rm --network none -v "$work/stub:/stub:ro" -e PATH=/stub:/usr/local/bin:/usr/bin:/bin "$@" streamspec:0.1.0
}
[ "$(rights --cap-drop ALL)" = 0000000000000000 ] || fail "capabilities out of nothing"
[ "$(rights --cap-drop ALL --cap-add NET_RAW --cap-add SYS_NICE)" = 0000000000802000 ] || fail "NET_RAW, SYS_NICE not handed on"
[ "$(rights --cap-drop ALL --cap-add NET_RAW --security-opt no-new-privileges)" = 0000000000000000 ] || fail "no-new-privileges"
say "capabilities: none of none; NET_RAW and SYS_NICE when given; none under no-new-privileges"

# -- each Compose ----------------------------------------------------------------------------------
export STREAMSPEC_PORT=19470 PROMETHEUS_PORT=19090 GRAFANA_PORT=13000 STREAMSPEC_TOKEN=token-of-the-compose-proof
export DOCKER_BUILDKIT=0 COMPOSE_HTTP_TIMEOUT=120
cd "$root"
proven="" failed=""
for compose in docker-compose "docker compose" ${COMPOSE:-}; do
    $compose version >/dev/null 2>&1 || continue
    version=$($compose version --short 2>/dev/null)
    say "Compose $version: $compose up"
    $compose config > "$work/config-$version.yml"
    started=$(date +%s.%N)
    # shellcheck disable=SC2086
    $compose -p streamspec-proof up -d --no-build $services > "$work/up-$version.log" 2>&1 || fail "$(tail -5 "$work/up-$version.log")"
    looked=0
    python3 "$here/observe.py" --compose "$compose" --project streamspec-proof --started "$started" --grafana "$grafana" \
        --report "$work/report-$version.json" || looked=$?
    $compose -p streamspec-proof logs > "$work/logs-$version.txt" 2>&1 || true
    [ "$looked" = 0 ] || failed="$failed $version"
    $compose -p streamspec-proof down -v --timeout 45 > "$work/down-$version.log" 2>&1 || fail "$(tail -5 "$work/down-$version.log")"
    left=$(docker ps -aq --filter label=com.docker.compose.project=streamspec-proof)
    [ -z "$left" ] || fail "containers left after down: $left"
    proven="$proven $version"
done
compose=""
[ -z "$failed" ] || fail "not all is proven with Compose$failed; see the report and the logs in $work"
[ -n "$proven" ] || fail "no Compose here; next: apt-get install docker-compose"
say "proven with Compose$proven; stand-ins:${stand_ins:- none}"
if [ "$grafana" = no ]; then say "NOT proven: Grafana, whose image cannot be had here (its queries were asked of Prometheus)"; fi
