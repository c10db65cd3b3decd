# The service and the traffic generator, as a user without rights, with its kernels compiled.
#
#   docker build -t streamspec:0.1.0 .
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL -v ./my:/etc/streamspec:ro streamspec:0.1.0 run /etc/streamspec/my.yaml
#
# Capabilities are handed on when the container has them: `--cap-add NET_RAW` for the source af_packet,
# `--cap-add NET_ADMIN` for shares of egress bandwidth, `--cap-add SYS_NICE` for nice levels below 0.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS dependencies
RUN python -m venv /opt/streamspec
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# A stage and a layer of their own, so that a change of the code does not fetch and copy them again.
# confluent-kafka is for the traffic generator.
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > requirements.txt \
    && /opt/streamspec/bin/python -m pip install --no-cache-dir --constraint constraints.txt \
        --requirement requirements.txt confluent-kafka setuptools

FROM dependencies AS wheel
COPY MANIFEST.in README.md LICENSE ./
COPY streamspec streamspec
COPY loadgen loadgen
RUN /opt/streamspec/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 streamspec \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin streamspec \
    && install -d -o 10001 -g 10001 /var/cache/streamspec /var/lib/streamspec /etc/streamspec
# As `setcap cap_net_admin,cap_net_raw,cap_sys_nice+p` would: permitted, not effective, so that it starts in a container
# that has none of them as well. See deploy/entrypoint.sh.
RUN install /usr/bin/setpriv /usr/local/bin/with-capabilities \
    && python -c 'import os, struct; os.setxattr("/usr/local/bin/with-capabilities", "security.capability", \
        struct.pack("<5I", 0x02000000, 1 << 12 | 1 << 13 | 1 << 23, 0, 0, 0))'
COPY --from=dependencies /opt/streamspec /opt/streamspec
ENV PATH=/opt/streamspec/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/var/cache/streamspec
COPY --from=wheel /wheel /wheel
RUN python -m pip install --no-cache-dir --no-deps --no-index /wheel/*.whl
COPY deploy/entrypoint.sh deploy/warm.py /opt/streamspec/
USER 10001:10001
# Kernels are compiled for the processor that builds; another one compiles its own at the first start, into the same
# folder, which therefore is a volume where the root file system is read-only.
RUN python /opt/streamspec/warm.py
WORKDIR /var/lib/streamspec
EXPOSE 9470
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=3s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9470/readyz', timeout=2)"]
ENTRYPOINT ["/bin/sh", "/opt/streamspec/entrypoint.sh"]
CMD ["run", "/etc/streamspec/streamspec.yaml"]
