"""The file for bash, which asks for nothing but bash itself."""

from __future__ import annotations

from collections.abc import Iterable

from clusterd.cli.completion.tree import Command, Option

_HEAD = """\
# bash completion for clusterd, made of its commands when the package was built.

_clusterd_profiles() {
    [[ ! -r $1 ]] || sed -n 's/^[[:space:]]*\\[profile\\.\\([a-z0-9-]*\\)[].].*/\\1/p' "$1" | sort -u
    echo none
}

_clusterd_workers() {
    local found
    for found in /sys/fs/cgroup/{system.slice/*,user.slice/*/user@"$UID".service/*/*}/cluster@"$1".service/worker-*; do
        [[ ! -d $found ]] || echo "${found##*-}"
    done
}

_clusterd() {
    local current=${COMP_WORDS[COMP_CWORD]} directory=/etc/clusterd command='' name='' valued='' word kind words='' i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $valued ]]; then
            [[ $valued != --config-dir ]] || directory=$word
            valued=''
            continue
        fi
        case "$command $word" in
"""

_MIDDLE = """\
            " --user") directory=${XDG_CONFIG_HOME:-$HOME/.config}/clusterd ;;
            *" "-*) ;;
            " "*) command=$word ;;
            *) [[ $name ]] || name=$word ;;
        esac
    done
    kind=words
    if [[ $valued ]]; then
        case "$command $valued" in
"""

_TAIL = """\
    fi
    case $kind in
        profile) words=$(_clusterd_profiles "$directory/${name:-?}.toml") ;;
        worker) words=$(_clusterd_workers "${name:-?}") ;;
        instance | target)
            for word in "$directory"/*.toml; do
                word=${word##*/}
                [[ $word == '*.toml' ]] || words+=" ${word%.toml}"
            done
            ;;
    esac
    local IFS=$' \\t\\n'
    # shellcheck disable=SC2207  # names have no spaces
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    case $kind in
        file | target | application)
            compopt -o filenames 2>/dev/null
            while read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$current")
            ;;
        directory)
            compopt -o filenames 2>/dev/null
            while read -r word; do COMPREPLY+=("$word"); done < <(compgen -d -- "$current")
            ;;
    esac
}

complete -F _clusterd clusterd
"""


def script(every: list[Command], program: tuple[Option, ...]) -> str:
    places = [("", program), *((command.name, command.options) for command in every)]
    valued, kinds, names, arguments = [], [], [], []
    for place, options in places:
        taking = [option for option in options if option.kind]
        if patterns := [f'"{place} {name}"' for option in taking for name in option.names]:
            valued.append(f"            {' | '.join(patterns)}) valued=$word ;;\n")
        for option in taking:
            pattern = " | ".join(f'"{place} {name}"' for name in option.names)
            words = f" words='{' '.join(option.words)}'" if option.words else ""
            kinds.append(f"            {pattern}) kind={option.kind!r}{words} ;;\n")
        names.append(f"            '{place}') words='{' '.join(_names(options))}' ;;\n")
    for command in every:
        once = "" if command.several else " [[ $name ]] ||"
        if command.kind != "nothing":
            arguments.append(f"            {command.name}){once} kind={command.kind!r} ;;\n")
    return "".join(
        [
            _HEAD,
            *valued,
            _MIDDLE,
            *kinds,
            "        esac\n    elif [[ $current == -* ]]; then\n        case $command in\n",
            *names,
            "        esac\n    else\n        case $command in\n",
            f"            '') words='{' '.join(command.name for command in every)}' ;;\n",
            *arguments,
            "        esac\n",
            _TAIL,
        ]
    )


def _names(options: Iterable[Option]) -> list[str]:
    return [name for option in options for name in option.names if name.startswith("--")]
