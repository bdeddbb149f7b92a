"""Commands that use a served model: predict, explain, play; and openapi, which says how."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from marina.client import StreamItem, encoding
from marina.client.request_options import CallOptions, RequestOptions
from marina.commands.session import LOOK, USE, Name, Result, ServerSession, Session, command, parse_settings
from marina.core import kinds
from marina.core.errors import CallError
from marina.core.spec import load
from marina.kinds.pictures import save_picture
from marina.packaging.archive import check_export

Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="KEY=VALUE", help="Like top_k=3 or confidence_threshold=0.3; repeatable."
    ),
]
Header = Annotated[
    list[str] | None,
    typer.Option(
        "--header", metavar="KEY=VALUE", help="A header, for options of your own handler; repeatable."
    ),
]

app = typer.Typer()


@command(app, "predict", panel=USE)
def predict(
    session: ServerSession,
    name: Name,
    file: Annotated[Path, typer.Argument(help="An image or clip, or a .json file with the body.")],
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the answer to each instance as it is computed.")
    ] = False,
    as_job: Annotated[
        bool, typer.Option("--async", help="Submit a job, which takes idle time alone, and wait for it.")
    ] = False,
    draw: Annotated[Path | None, typer.Option(help="Write the image with the answer drawn on it.")] = None,
    option: Option = None,
    header: Header = None,
) -> Result:
    """Send one file and print the answer; where no server runs, a private one is started for it."""
    if stream + as_job + (draw is not None) > 1:
        raise CallError("--stream, --async and --draw exclude each other; choose one")
    spec, (body, content_type) = load(name), encoding.encode_body(file)
    options = _call_options(option, header, content_type)
    with session.serving(spec) as client:
        if stream:
            return _streamed(session, client.stream(name, body, **options))
        if as_job:
            job = client.submit(name, body, **options)
            session.output.say(
                f"job {job.id}: {client.inference}/jobs/{job.id}" if job.id else "answered at once"
            )
            return _shown(session, job.result())
        answer = client.predict(name, body, **options)
    if draw:
        save_picture(kinds.get(spec.kind).draw(body, answer), draw)
        session.output.say(f"drawn to {draw}")
    return _shown(session, answer)


@command(app, "explain", panel=USE)
def explain(
    session: ServerSession,
    name: Name,
    file: Annotated[Path, typer.Argument(help="An image, a sound, or a .json file with the body.")],
    draw: Annotated[Path | None, typer.Option(help="Write the image with a heat map on it, as PNG.")] = None,
    option: Option = None,
    header: Header = None,
) -> Result:
    """Explain the answer to a file: which regions of an image, or which numbers, decide it."""
    spec, (body, content_type) = load(name), encoding.encode_body(file)
    options = _call_options(option, header, content_type)
    with session.serving(spec) as client:
        answer = client.explain(name, body, **options)
        if draw:
            drawn: CallOptions = {**options, "format": "png"}
            picture = client.explain(name, body, **drawn)
            if not isinstance(picture, bytes):
                raise CallError(f"the explanation of a {spec.kind} is no picture; leave --draw out")
            draw.parent.mkdir(parents=True, exist_ok=True)
            draw.write_bytes(picture)
            session.output.say(f"drawn to {draw}")
    return _shown(session, answer)


def _streamed(session: Session, items: Iterator[StreamItem]) -> Result:
    """Print answers for people as they come; for programs all of them are the command's result."""
    answers, errors = [], 0
    for item in items:
        error = item.error
        answer = {"error": {"type": error.type, "message": error.message}} if error else item.answer
        errors += error is not None
        session.output.show(json.dumps({"index": item.index, "answer": answer}))
        answers.append(answer)
    return {"ok": not errors, "answers": answers, "errors": errors}


def _call_options(option: list[str] | None, header: list[str] | None, content_type: str) -> CallOptions:
    return cast(CallOptions, {**_options(option), "content_type": content_type, "headers": _headers(header)})


def _options(option: list[str] | None) -> RequestOptions:
    """The client's options; it checks their names. Raises CallError for format=png, which is --draw here."""
    options = cast(RequestOptions, parse_settings(option))
    if options.get("format") == "png":
        raise CallError("--option format=png: write a picture with --draw FILE instead")
    encoding.option_headers(options)  # refused before a server is started
    return options


def _headers(header: list[str] | None) -> dict[str, str]:
    return {key: str(value) for key, value in parse_settings(header).items()}


def _shown(session: Session, answer: Any) -> Result:
    """Print an answer for people; for programs it is the command's result."""
    session.output.show_json(answer)
    return answer if isinstance(answer, dict) else {"answer": answer}


@command(app, "play", panel=USE)
def play(
    session: ServerSession,
    name: Name,
    episodes: Annotated[int, typer.Option(min=1, max=1000, help="How many episodes.")] = 1,
    gif: Annotated[Path | None, typer.Option(help="Write the first episode as an animated GIF.")] = None,
    mp4: Annotated[
        Path | None, typer.Option(help="Write the first episode as an MP4; needs the extra 'video'.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first episode.")] = 0,
) -> Result:
    """Let a served policy act in its environment, and record it."""
    from marina.evaluation import playback
    from marina.kinds.episodes import Requests, configuration
    from training.policies.spaces import ObservationSpec

    spec = load(name)
    if not kinds.get(spec.kind).is_playable:
        instead = f"marina predict {name} FILE --draw OUT.png"
        raise CallError(f"{name} is a {spec.kind}; only policies play. For images use: {instead}")
    check_export(spec)
    config = configuration(spec)
    environment, requests, steps = config["environment"], Requests(config, stacks=False), count()
    with session.serving(spec) as client:

        def begin() -> None:
            nonlocal steps
            steps = count()

        def act(observation: Any, *action_mask: Any) -> tuple[Any, dict[str, Any]]:
            body = requests.instance(0, next(steps), observation[0], *action_mask)
            answer = requests.answered(0, client.predict(name, body, spec.version))
            return answer["action"], answer

        options = ObservationSpec.from_json(config).env_kwargs
        returns = playback.play(act, environment, episodes, seed, gif, options, mp4=mp4, began=begin)
    session.output.table(f"{name} in {environment}", ("episode", "return"), list(enumerate(returns, 1)))
    for file in filter(None, (gif, mp4)):
        session.output.say(f"recorded to {file}")
    files = {"gif": str(gif) if gif else None, "mp4": str(mp4) if mp4 else None}
    return {"ok": True, "returns": returns, **files}


@command(app, "openapi", panel=LOOK)
def show_openapi(
    session: Session,
    name: Name,
    file: Annotated[
        Path | None, typer.Option("--output", help="Write it to a file instead of printing it.")
    ] = None,
) -> Result:
    """Print the OpenAPI document of a model: how to call it, what it takes, its answers and its errors."""
    from marina.packaging.openapi import document

    content = document(load(name))
    text = json.dumps(content, indent=2)
    if not file:
        session.output.show(text)
        return content
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")
    session.output.say(f"written to {file}")
    return {"ok": True, "file": str(file)}
