#!/bin/sh
# Starts streamspec with those of the three capabilities that this container was given. A process that is not root
# gets none of them by itself; `with-capabilities` (setpriv, with file capabilities) hands them on. Without any, or
# under no-new-privileges, the service starts all the same and says what it then cannot do.
set -eu

bounding=$((0x$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)))
granted=
for capability in net_admin:12 net_raw:13 sys_nice:23; do
    if [ $((bounding >> ${capability#*:} & 1)) = 1 ]; then
        granted="$granted,+${capability%:*}"
    fi
done

if [ -n "$granted" ] && with-capabilities --inh-caps="${granted#,}" --ambient-caps="${granted#,}" true 2>/dev/null; then
    exec with-capabilities --inh-caps="${granted#,}" --ambient-caps="${granted#,}" streamspec "$@"
fi
exec streamspec "$@"
