"""Table of the commands of `zosia`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from zosia.base.places import INSTALLED
from zosia.settings.variable import Variable
from zosia.settings.variables import DEFAULTS, GROUPS, NATIVE

PACKAGED = {"ARCH": NATIVE, "BASE": "direct"}  # defaults of a package, which has all architectures
OWN = PACKAGED if INSTALLED else {}
MACHINE = ("Model", "Machine", "Output")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `zosia`.

    Attributes:
        text: meaning.
        words: variables that it takes without an option, in this order.
        groups: of the variables that are its options.
        target: the target of `scons` that does the same; "" if there is none.
        flags: further options, without a value, and their meanings.
    """

    text: str
    words: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    target: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)

    def variables(self, name: str) -> Mapping[str, list[Variable]]:
        """Return the variables of the command NAME, by their group."""

        def takes(group: str, item: Variable) -> bool:
            return name in item.only if item.only else group in self.groups or item.name in self.words

        known = {group: [item for item in items if takes(group, item)] for group, items in GROUPS.items()}
        return {group: items for group, items in known.items() if items}


COMMANDS = {
    "run": Command(
        text="boot MODEL, and chat in this terminal; with a PROMPT in quotation marks, or one on standard input, print "
        "one answer",
        words=("MODEL", "PROMPT"),
        groups=("Model", "Machine", "Chat", "Output"),
        target="run",
        flags={
            "dry-run": "print the QEMU command of a cold start over virtio-blk, to paste into a shell; boot nothing"
        },
    ),
    "serve": Command(
        text="boot MODEL, and serve an OpenAI-compatible API and a web page on this machine",
        words=("MODEL",),
        groups=("Model", "Machine", "Serve", "Output"),
        target="serve",
        flags={
            "install": "serve from now on, as a service of this user; systemd or launchd listens, and the first "
            "request starts the machine",
            "uninstall": "end that service, and remove its files",
        },
    ),
    "chat": Command(
        text="boot MODEL, and chat in a program with Markdown, files and history; CHAT is the name of a chat to keep",
        words=("CHAT",),
        groups=("Model", "Machine", "Chat", "Output"),
        target="chat",
    ),
    "chats": Command(text="list the chats that are kept: name, model, questions, size, last use", target="chats"),
    "worker": Command(
        text="compute layers of a model for another machine, which starts this over ssh; see --workers of `zosia run`",
        groups=("Machine", "Output"),
        flags={
            "stdio": "take requests on standard input, and answer on standard output, as --workers ssh:HOST does it"
        },
    ),
    "models": Command(
        text="list the models known by name: size, licence, memory needed, whether each fits and is here",
        groups=MACHINE,
        target="models",
    ),
    "pull": Command(
        text="download MODEL and make its disk, for a later run without a network",
        words=("MODEL",),
        groups=MACHINE,
        target="model.img",
    ),
    "import": Command(
        text="add the model in FILE, or the parts in a folder, to the cache without a network",
        words=("FILE",),
        target="import-model",
    ),
    "remove": Command(
        text="delete MODEL from the cache, and its disk",
        words=("MODEL",),
        target="remove-model",
    ),
    "trust": Command(
        text="trust catalogues that the owner of the public key in FILE has signed; see --catalogue of `zosia run`",
        words=("FILE",),
        target="trust",
    ),
    "clean": Command(text="delete saved machines, and the disks of model files of your own", target="hot-clean"),
    "doctor": Command(
        text="check that this machine can run zosia, and suggest a fix for each problem",
        words=("MODEL",),
        groups=MACHINE,
        target="doctor",
    ),
    "diag": Command(
        text="boot, print diagnostics for a bug report, and power off", words=("MODEL",), groups=MACHINE, target="diag"
    ),
    "completion": Command(
        text="print what makes SHELL (bash, zsh or fish) complete command lines of zosia; its first lines say how",
        words=("SHELL",),
    ),
}

EXAMPLES = {
    "zosia": "boot, and chat; /exit or Ctrl+C powers off",
    "zosia run qwen3-4b --mem 6G --ctx 16384": "another model, more memory, a longer context",
    'zosia run ./model.gguf "What is 2+2?"': "print one answer on standard output, and power off",
    "zosia serve": "an OpenAI-compatible API and a web page, http://127.0.0.1:8080; Ctrl+C ends it",
    "zosia run -n": "print the QEMU command",
}
ALWAYS = {
    "-h, --help": "show this help; `zosia COMMAND --help` shows the options of a command",
    "--version": "show the version",
}
SHORT = {"help": "h", "dry-run": "n"}


def default(name: str) -> str:
    """Return the default value of a variable in `zosia`."""
    return OWN.get(name, DEFAULTS[name])


def shown_words(command: Command) -> str:
    """Return the words that a command takes, as in its usage."""
    return "".join(f" [{word}" for word in command.words) + "]" * len(command.words)


def shown_flag(flag: str) -> str:
    """Return a flag as in a usage."""
    return f"-{SHORT[flag]}, --{flag}" if flag in SHORT else f"--{flag}"


def shown_option(variable: Variable) -> str:
    """Return an option as in a usage."""
    return f"{variable.option}, {variable.off}" if variable.switch else variable.option


def meaning(variable: Variable) -> str:
    """Return the meaning of a variable, for `zosia`."""
    text = re.sub("^with [a-z-]+: ", "", variable.text)
    for value, option in _switched(variable).items():
        text = re.sub(rf"\b{value} (?=[a-z])", f"{option} ", text)
    return text


def usual(variable: Variable, value: str) -> str:
    """Return a default value as an option or a description; "" if there is none."""
    return _switched(variable).get(value or variable.otherwise, value or variable.otherwise)


def _switched(variable: Variable) -> dict[str, str]:
    return dict(zip("10", shown_option(variable).split(", "), strict=True)) if variable.switch else {}


def summary(variable: Variable) -> str:
    """Return meaning, values and default in one line, for `zosia`."""
    text, value = meaning(variable), default(variable.name)
    if variable.switch:
        return f"{text} (default: {usual(variable, value)})"
    return replace(variable, text=text, default=value).summary
