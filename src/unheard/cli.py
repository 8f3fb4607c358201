"""The command `unheard`: one verb, one function, one word.

Each verb's options are read from the signature and the docstring of its function in
`unheard.tasks`, so that the command line and Python cannot drift apart. Data goes to stdout, logs
and errors to stderr. Exit codes: 0 done, 1 could not run, 2 usage, 3 some inputs failed,
4 training diverged, 5 no room on the disk, 6 no checkpoint is whole; stopped by a signal, with
training saved: 130 Ctrl-C, 143 SIGTERM, 75 SIGUSR1 (docs/reliability.md).
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import unheard
from unheard.errors import DiskFullError, Interrupted, UnheardError

EXIT_DONE = 0
EXIT_COULD_NOT_RUN = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of the command line.

    Attributes:
        summary: one line for `unheard --help`.
        run: takes the words after the verb, returns the exit code.
        resumes: whether the same command, given again, goes on from where it was stopped.
    """

    summary: str
    run: Callable[[list[str]], int]
    resumes: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code.

    Args:
        arguments: the command line after the program's name; the process's own by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        print(_help(), file=sys.stderr)
        return EXIT_USAGE
    verb = VERBS.get(words[0])
    if verb is None and words[0] not in _ABOUT:
        _complain(_unknown_verb(words[0], VERBS, "unheard"))
        return EXIT_USAGE
    try:
        if verb is None:
            print(_ABOUT[words[0]]())
            code = EXIT_DONE
        else:
            _configure_logging()
            code = verb.run(words[1:])
        sys.stdout.flush()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else EXIT_COULD_NOT_RUN
    except KeyboardInterrupt as stop:
        resumes = (verb is not None and verb.resumes) or isinstance(stop, Interrupted)
        _say_stopped(words, resumes=resumes)
        return stop.exit_code if isinstance(stop, Interrupted) else EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output, such as `head`, has gone. Python flushes stdout once more at
        # exit and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_COULD_NOT_RUN
    except (UnheardError, OSError) as error:
        if os.environ.get("UNHEARD_DEBUG"):
            raise
        _complain(str(error))
        return _exit_code(error)
    return code


def _exit_code(error: UnheardError | OSError) -> int:
    """Exit code for an error: its kind's own, if it has one."""
    from unheard.files import is_disk_full

    if isinstance(error, UnheardError):
        return error.exit_code
    return DiskFullError.exit_code if is_disk_full(error) else EXIT_COULD_NOT_RUN


def _learn(words: list[str]) -> int:
    from unheard.tasks.learn import learn

    return _call("learn", learn, words)


def _scan(words: list[str]) -> int:
    from unheard.tasks.scan import scan

    return _call("scan", scan, words)


def _pretrain(words: list[str]) -> int:
    from unheard.tasks.pretrain import pretrain

    return _call("pretrain", pretrain, words)


def _finetune(words: list[str]) -> int:
    from unheard.tasks.finetune import finetune

    return _call("finetune", finetune, words)


def _shard(words: list[str]) -> int:
    from unheard.tasks.shard import shard

    return _call("shard", shard, words)


def _plan(words: list[str]) -> int:
    from unheard.tasks.plan import plan

    return _call("plan", plan, words)


def _recipes(words: list[str]) -> int:
    from unheard.tasks.recipes import recipes

    if words and not words[0].startswith("-"):
        words = ["--name", *words]
    return _call("recipes", recipes, words)


def _evaluate(words: list[str]) -> int:
    from unheard.tasks.evaluate import evaluate

    return _call("evaluate", evaluate, words)


def _transcribe(words: list[str]) -> int:
    from unheard.tasks.transcribe import transcribe_files

    return _call("transcribe", transcribe_files, words)


def _archive(words: list[str]) -> int:
    from unheard.archive.job import archive

    return _call("archive", archive, words)


def _listen(words: list[str]) -> int:
    from unheard.arguments import parse
    from unheard.tasks.listen import listen

    # A bare "-" is the standard input; text and, with --json, its changes go out as they come.
    words = [part for word in words for part in (("--file", "-") if word == "-" else (word,))]
    call = parse(listen, words, program="unheard listen", with_json=False)
    listen(*call.positional, **call.named, json=call.json)
    return EXIT_DONE


def _lm(words: list[str]) -> int:
    return _choose("lm", LM_VERBS, words)


def _lm_train(words: list[str]) -> int:
    from unheard.tasks.lm import train

    return _call("lm train", train, words)


def _lm_perplexity(words: list[str]) -> int:
    from unheard.tasks.lm import perplexity

    return _call("lm perplexity", perplexity, words)


def _tune(words: list[str]) -> int:
    from unheard.tasks.tune import tune

    return _call("tune", tune, words)


def _align(words: list[str]) -> int:
    from unheard.tasks.align import align_file

    return _call("align", align_file, words)


def _inspect(words: list[str]) -> int:
    from unheard.tasks.inspect import inspect

    return _call("inspect", inspect, words)


def _convert(words: list[str]) -> int:
    from unheard.tasks.convert import convert

    return _call("convert", convert, words)


def _bench(words: list[str]) -> int:
    from unheard.tasks.bench import bench

    return _call("bench", bench, words)


def _export(words: list[str]) -> int:
    from unheard.tasks.export import export

    return _call("export", export, words)


def _demo(words: list[str]) -> int:
    from unheard.tasks.demo import demo

    return _call("demo", demo, words)


def _doctor(words: list[str]) -> int:
    from unheard.tasks.doctor import doctor

    return _call("doctor", doctor, words)


VERBS = {
    "learn": Verb(
        summary="recordings and a few transcripts in, a recogniser and its report out",
        run=_learn,
        resumes=True,
    ),
    "scan": Verb(
        summary="list recordings and transcripts of any known layout in manifests", run=_scan
    ),
    "pretrain": Verb(summary="learn to listen, from recordings alone", run=_pretrain, resumes=True),
    "finetune": Verb(
        summary="learn to write, from transcribed recordings", run=_finetune, resumes=True
    ),
    "shard": Verb(
        summary="recordings to tar files, for training on thousands of hours",
        run=_shard,
        resumes=True,
    ),
    "plan": Verb(summary="what a large pre-training costs: days, devices, disk", run=_plan),
    "recipes": Verb(summary="list ready settings, or show all of one", run=_recipes),
    "evaluate": Verb(
        summary="measure word and character error rates, with intervals", run=_evaluate
    ),
    "lm": Verb(summary="language models: train one from text, measure one on text", run=_lm),
    "transcribe": Verb(
        summary="write what is said in recordings: txt, jsonl, srt or vtt",
        run=_transcribe,
        resumes=True,
    ),
    "archive": Verb(
        summary="transcribe thousands of hours, on this machine or a cluster",
        run=_archive,
        resumes=True,
    ),
    "listen": Verb(
        summary="write what is said while it is said: a microphone, a pipe, a file",
        run=_listen,
    ),
    "tune": Verb(
        summary="find the weights of a search with a language model", run=_tune, resumes=True
    ),
    "align": Verb(
        summary="find when each word of a text is spoken, or cut out utterances", run=_align
    ),
    "inspect": Verb(
        summary="say what a stored model is, without reading its weights", run=_inspect
    ),
    "convert": Verb(
        summary="write a stored model in another format, checked tensor by tensor", run=_convert
    ),
    "export": Verb(
        summary="write a model as ONNX, for phones, browsers and other programs", run=_export
    ),
    "bench": Verb(
        summary="how fast a model runs on this machine, beside other programs", run=_bench
    ),
    "demo": Verb(
        summary="the whole main job on a small synthetic corpus, in minutes",
        run=_demo,
        resumes=True,
    ),
    "doctor": Verb(summary="show what this machine and installation can do", run=_doctor),
}

LM_VERBS = {
    "train": Verb(
        summary="text in, a language model out: an n-gram or a Transformer", run=_lm_train
    ),
    "perplexity": Verb(summary="measure a language model on text", run=_lm_perplexity),
}


def _choose(name: str, verbs: dict[str, Verb], words: list[str]) -> int:
    """Run one of the verbs that a verb consists of."""
    width = max(map(len, verbs))
    listed = "\n".join(f"  {word:<{width}}  {verb.summary}" for word, verb in verbs.items())
    page = (
        f"usage: unheard {name} VERB ...\n\n{listed}\n\n"
        f"options, --json among them:  unheard {name} VERB --help"
    )
    if words and words[0] in ("-h", "--help", "help"):
        print(page)
        return EXIT_DONE
    if not words:
        print(page, file=sys.stderr)
        return EXIT_USAGE
    if words[0] not in verbs:
        _complain(_unknown_verb(words[0], verbs, f"unheard {name}"))
        return EXIT_USAGE
    return verbs[words[0]].run(words[1:])


def _call(name: str, function: Callable[..., Any], words: list[str]) -> int:
    """Read a function's arguments from the command line, call it, print what it returns."""
    from unheard.arguments import parse, plain

    call = parse(function, words, program=f"unheard {name}")
    result = function(*call.positional, **call.named)
    if os.environ.get("RANK", "0") != "0":
        # Of the processes that torchrun started, one speaks for all.
        return EXIT_DONE
    if call.json:
        import json

        print(json.dumps(plain(result), ensure_ascii=False, indent=2, allow_nan=False))
    elif table := _table(result):
        print(table)
    return EXIT_SOME_FAILED if getattr(result, "failed", 0) else EXIT_DONE


def _table(result: Any) -> str:
    """Lay a result out for a person: its own `table()` if it has one, else its short fields."""
    if hasattr(result, "table"):
        return result.table()
    import dataclasses

    rows = []
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, float):
            value = f"{value:.4g}"
        if isinstance(value, (list, tuple, dict)):
            value = f"{len(value)}"
        if value is not None:
            rows.append((field.name.replace("_", " "), str(value)))
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _help() -> str:
    """Return the page that `unheard --help` prints."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    return f"""Unheard: speech recognition for languages nobody has trained for.

usage: unheard VERB ...

{verbs}

options of a verb:  unheard VERB --help
the main job:       unheard learn recordings/ --transcripts transcripts.tsv --out mine/
and then:           unheard transcribe mine/model interviews/ --out texts/
"""


def _version() -> str:
    return f"unheard {unheard.__version__}"


_ABOUT: dict[str, Callable[[], str]] = {
    **dict.fromkeys(("-h", "--help", "help"), _help),
    **dict.fromkeys(("-V", "--version", "version"), _version),
}
"""What can be asked for in place of a verb."""


def _unknown_verb(word: str, verbs: dict[str, Verb], program: str) -> str:
    """Say that there is no such verb, and which one may be meant."""
    import difflib

    near = difflib.get_close_matches(word.replace("_", "-"), verbs, n=1)
    hint = f'Did you mean "{near[0]}"?' if near else f"There are: {', '.join(verbs)}."
    return f'Unknown verb "{word}". {hint} For all verbs, run: {program} --help'


def _say_stopped(words: list[str], *, resumes: bool) -> None:
    """Say how to go on after Ctrl-C or another signal to stop."""
    import shlex

    command = f" To go on from here, run again:\n  unheard {shlex.join(words)}"
    print(f"\nStopped.{command if resumes else ''}", file=sys.stderr)


def _complain(message: str) -> None:
    """Print an error to stderr, in red where the terminal shows colours."""
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    red, plain = ("\033[31m", "\033[0m") if coloured else ("", "")
    print(f"{red}error:{plain} {message}", file=sys.stderr)


def _configure_logging() -> None:
    """Send the package's own messages to stderr, bare."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("unheard")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
