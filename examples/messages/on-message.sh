#!/bin/bash
# Run a worker, and beside it a hook for each message that is said under a topic, by `clusterd send` for one:
#
#     command = ["./on-message.sh", "certificates", "./renewed.sh", "node", "server.js"]
#
# The hook reads the message from standard input, as JSON; MAINPID is the worker, to be sent a signal.

topic=$1 hook=$2
shift 2
channel=$CLUSTERD_CHANNEL_FD
if [[ -z $channel ]]; then
    exec "$@" # no cluster: nobody says anything
fi
export MAINPID=$$

say() {
    printf '%s\0' "$1" >&"$channel"
}

subscribe() {
    say "{\"op\":\"on\",\"topic\":\"$topic\"}"
}

# Beside the worker, which keeps this process and its number. It ends with the worker, whose end of the channel closes.
{
    subscribe
    while IFS= read -r -d '' -u "$channel" message; do
        case $message in
            '{"from":'*) "$hook" <<<"$message" ;;
            *'"event":"again"'*) subscribe ;; # another master
        esac
    done
} &
eval "exec $channel>&-"
exec "$@"
