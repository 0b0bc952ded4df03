"""The file for zsh: its own _arguments, so that it looks as every other completion there."""

from __future__ import annotations

import re

from clusterd.cli.completion.tree import Command, Kind, Option

_HEAD = """\
#compdef clusterd
# zsh completion for clusterd, made of its commands when the package was built.

_clusterd_instances() {
    local -a names=($directory/*.toml(N:t:r))
    _describe -t instances instance names
}

_clusterd_targets() {
    _alternative 'instances:instance:_clusterd_instances' 'files:file:_files -g "*.toml"'
}

_clusterd_profiles() {
    local word
    local -a names
    for word in ${words[2,-1]}; do
        if [[ -r $directory/$word.toml ]]; then
            names=(${(uf)"$(sed -n 's/^[[:space:]]*\\[profile\\.\\([a-z0-9-]*\\)[].].*/\\1/p' $directory/$word.toml)"})
            break
        fi
    done
    names+=none
    _describe -t profiles profile names
}

_clusterd_workers() {
    local word groups=/sys/fs/cgroup
    local -a found
    for word in ${words[2,-1]}; do
        found+=($groups/system.slice/*/cluster@$word.service/worker-*(N/:t)
            $groups/user.slice/*/user@$UID.service/*/*/cluster@$word.service/worker-*(N/:t))
    done
    found=(${found#worker-})
    _describe -t workers worker found
}

_clusterd() {
    local context state state_descr line directory=/etc/clusterd
    typeset -A opt_args
"""

_ACTIONS: dict[Kind, str] = {
    "nothing": "value: ",
    "instance": "instance:_clusterd_instances",
    "target": "instance or file:_clusterd_targets",
    "application": "application:_files -g '*.toml'",
    "profile": "profile:_clusterd_profiles",
    "worker": "worker:_clusterd_workers",
    "file": "file:_files",
    "directory": "directory:_files -/",
}


def script(every: list[Command], program: tuple[Option, ...]) -> str:
    lines = ["    _arguments -C \\"]
    lines += [f"        {_spec(option)} \\" for option in program]
    lines += ["        '1:command:->command' '*::argument:->argument'"]
    lines += ["    (( $+opt_args[--user] )) && directory=${XDG_CONFIG_HOME:-$HOME/.config}/clusterd"]
    lines += ["    [[ -z $opt_args[--config-dir] ]] || directory=$opt_args[--config-dir]"]
    lines += ["    case $state in", "        command)", "            local -a commands=("]
    lines += [f"                {_quoted(command.name + ':' + command.help)}" for command in every]
    lines += ["            )", "            _describe -t commands command commands", "            ;;"]
    lines += ["        argument)", "            case $words[1] in"]
    for command in every:
        specs = [_spec(option) for option in command.options]
        if command.kind != "nothing":
            specs.append(_quoted(("*:" if command.several else "1:") + _ACTIONS[command.kind]))
        lines += [f"                {command.name})", "                    _arguments \\"]
        lines += [f"                        {spec} \\" for spec in specs]
        lines[-1] = lines[-1].removesuffix(" \\")
        lines += ["                    ;;"]
    lines += ["            esac", "            ;;", "    esac", "}", "", '_clusterd "$@"', ""]
    return _HEAD + "\n".join(lines)


def _spec(option: Option) -> str:
    help = "[" + re.sub(r"([][:\\])", r"\\\1", option.help) + "]"
    action = ""
    if option.kind:
        action = ":" + (f"value:({' '.join(option.words)})" if option.words else _ACTIONS[option.kind])
    if len(option.names) == 1:
        return _quoted(option.names[0] + help + action)
    return f"'({' '.join(option.names)})'{{{','.join(option.names)}}}{_quoted(help + action)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
