"""The file for fish."""

from __future__ import annotations

from clusterd.cli.completion.tree import Command, Kind, Option

_HEAD = """\
# fish completion for clusterd, made of its commands when the package was built.

# The command typed so far, where the files are, and the instance: three lines, the last empty when there is none yet.
function __clusterd_typed
    set -l directory /etc/clusterd
    set -l command ''
    set -l name ''
    set -l valued ''
    for word in (commandline -opc)[2..-1]
        if test -n "$valued"
            test "$valued" = --config-dir; and set directory $word
            set valued ''
            continue
        end
        switch "$command $word"
            case ' --user'
                set -q XDG_CONFIG_HOME; and set directory $XDG_CONFIG_HOME/clusterd; or set directory ~/.config/clusterd
"""

_TAIL = """\
                set valued $word
            case '* -*'
            case ' *'
                set command $word
            case '*'
                test -n "$name"; or set name $word
        end
    end
    printf '%s\\n' "$command" $directory "$name"
end

function __clusterd_in
    test (__clusterd_typed)[1] = "$argv[1]"
end

function __clusterd_wants
    set -l typed (__clusterd_typed)
    test "$typed[1]" = "$argv[1]" -a -z "$typed[3]"
end

function __clusterd_instances
    for file in (__clusterd_typed)[2]/*.toml
        string replace -r '.*/(.*)\\.toml$' '$1' -- $file
    end
end

function __clusterd_profiles
    set -l typed (__clusterd_typed)
    set -l file "$typed[2]/$typed[3].toml"
    if test -r "$file"
        string replace -rf '^\\s*\\[profile\\.([a-z0-9-]*)[].].*' '$1' <$file | sort -u
    end
    echo none
end

function __clusterd_workers
    set -l groups /sys/fs/cgroup
    set -l service cluster@(__clusterd_typed)[3].service
    set -l user (id -u)
    for found in $groups/system.slice/*/$service/worker-* $groups/user.slice/*/user@$user.service/*/*/$service/worker-*
        string replace -r '.*-' '' -- $found
    end
end

complete -c clusterd -f
"""

_VALUES: dict[Kind, str] = {
    "nothing": "-x",
    "instance": "-x -a '(__clusterd_instances)'",
    "target": "-F -r -a '(__clusterd_instances)'",
    "application": "-F -r",
    "profile": "-x -a '(__clusterd_profiles)'",
    "worker": "-x -a '(__clusterd_workers)'",
    "file": "-F -r",
    "directory": "-x -a '(__fish_complete_directories)'",
}


def script(every: list[Command], program: tuple[Option, ...]) -> str:
    valued = []
    for place, options in [("", program), *((command.name, command.options) for command in every)]:
        valued += [f"'{place} {name}'" for option in options if option.kind for name in option.names]
    lines = [f"            case {' '.join(valued)}\n", _TAIL]
    lines += [_option("", option) for option in program]
    for command in every:
        lines.append(f"complete -c clusterd -n '__clusterd_in \"\"' -a {command.name} -d {_quoted(command.help)}\n")
    for command in every:
        lines += [_option(command.name, option) for option in command.options]
        if command.kind != "nothing":
            when = f"{'__clusterd_in' if command.several else '__clusterd_wants'} {command.name}"
            values = _VALUES[command.kind].replace("-x ", "").replace(" -r", "")
            lines.append(f"complete -c clusterd -n '{when}' {values}\n")
    return _HEAD + "".join(lines)


def _option(place: str, option: Option) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = ""
    if option.kind:
        value = f" -x -a '{' '.join(option.words)}'" if option.words else " " + _VALUES[option.kind]
    return f"complete -c clusterd -n '__clusterd_in \"{place}\"' {names}{value} -d {_quoted(option.help)}\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
