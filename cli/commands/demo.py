"""doublei demo: the whole story on a real model."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.client import Api
from cli.commands.display import StartDisplay
from cli.commands.stack import HomeOption, PortOption
from cli.demo.conversations import SUBSET_ROWS
from cli.demo.narrator import Narrator
from cli.demo.result import DemoResult
from cli.demo.story import BASE_MODEL, Story, Suspect
from cli.errors import StackError, UsageMistake
from cli.files import make_private_dir
from cli.stack import state
from cli.stack.home import Home, locate
from cli.stack.running import Credential, is_running, read_credentials
from cli.stack.stack import Stack


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(demo)


def demo(
    home: HomeOption = None,
    port: PortOption = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here, for programs.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All conversations, not a subset of 150.")] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=2**31 - 1,
            help="Which subset, and the training's seed. The key is always fresh.",
        ),
    ] = None,
) -> None:
    """Fine-tune a model with an ownership watermark, deploy it, and prove whose it is.

    Brings the stack up (or uses the one that runs in the data folder), trains a watermarked and a clean
    model on real conversations, and lets an auditor ask four suspects over HTTP. About eight minutes on two
    cores; the first run also downloads the default model. Exit status 1: a verdict was not as expected.

    Examples:  doublei demo   |   doublei demo --full   |   doublei demo --json demo.json --seed 7
    """
    if as_json is not None and not as_json.absolute().parent.is_dir():
        raise UsageMistake(f"--json: the folder {as_json.absolute().parent} does not exist")
    began = time.monotonic()
    place = locate(home)
    console = Console()
    with ExitStack() as open_things:
        api_url, dashboard_url = _bring_up(open_things, console, place, port)
        credentials = read_credentials(place)
        folder = _result_folder(place)
        narrator = Narrator(console)
        narrator.step(
            "the stack is up; watch it in a browser, signing in with the provider's key", dashboard_url
        )
        result = _tell(
            open_things,
            narrator,
            credentials,
            api_url=api_url,
            folder=folder,
            rows=None if full else SUBSET_ROWS,
            seed=random.SystemRandom().randrange(2**31) if seed is None else seed,
            began=began,
        )
        narrator.table(result.suspects)
        home_option = "" if home is None else f" --home {place.root}"
        narrator.farewell(result, folder, dashboard_url, home_option)
    if as_json is not None:
        as_json.write_text(json.dumps(result.to_record(), indent=2) + "\n", encoding="utf-8")
    if not result.as_expected:
        console.print("[red]not every verdict is as expected: see the table[/red]")
        raise typer.Exit(1)


def _bring_up(open_things: ExitStack, console: Console, place: Home, port: int | None) -> tuple[str, str]:
    current = state.read(place)
    if current is not None and is_running(place, current):
        if port is not None:
            raise UsageMistake("--port: a stack already runs in this folder, on its own port")
        console.print(f"using the stack that runs in {place.root}", highlight=False, soft_wrap=True)
        return current.api_url, current.dashboard_url
    display = open_things.enter_context(StartDisplay(console))
    stack = open_things.enter_context(Stack(place, port=port, on_event=display))
    return stack.api_url, stack.dashboard_url


def _result_folder(place: Home) -> Path:
    parent = place.root / "demo"
    make_private_dir(parent)
    for number in range(1, 10_000):
        folder = parent / f"run-{number:03d}"
        if not folder.exists():
            make_private_dir(folder)
            return folder
    raise StackError(f"{parent} is full of runs; remove some")


def _tell(
    open_things: ExitStack,
    narrator: Narrator,
    credentials: dict[str, Credential],
    *,
    api_url: str,
    folder: Path,
    rows: int | None,
    seed: int,
    began: float,
) -> DemoResult:
    people = {
        role: open_things.enter_context(Api(api_url, credentials[role].api_key))
        for role in ("owner", "provider", "auditor")
    }
    story = Story(**people, url=api_url, narrator=narrator)
    gflops = matmul_bf16_gflops()
    story.cancel_leftovers()
    file_id = story.upload(rows=rows, seed=seed)
    key = story.make_key(folder)
    rival_key, rival = story.make_rival()
    open_things.enter_context(rival)
    # One of the key's two families is embedded in the short demo, both with --full: half the time.
    families = None if rows is None else [0]
    jobs = {
        "marked": story.start_job(file_id, suffix="marked", seed=seed, key=key, families=families),
        "clean": story.start_job(file_id, suffix="clean", seed=seed, key=None),
    }
    narrator.step("two fine-tuning jobs: one watermarked, one clean, on the same rows")
    models, training = story.follow_jobs(jobs)
    story.chat(models["marked"])
    auditor_id = credentials["auditor"].organization
    story.grant(people["owner"], key, auditor_id)
    story.grant(rival, rival_key, auditor_id)
    credential = story.inference_key()
    narrator.step("the auditor, under the owners' grants, asks four suspects over HTTP")
    suspects, evidence = [], []
    audits: dict[str, str] = {}
    for suspect in (
        Suspect(name="marked", model=models["marked"], watermark=key),
        Suspect(name="clean", model=models["clean"], watermark=key),
        Suspect(name="base", model=BASE_MODEL, watermark=key),
        Suspect(name="wrong_key", model=models["marked"], watermark=rival_key),
    ):
        found, path, audits[suspect.name] = story.verify(suspect, credential, folder)
        suspects.append(found)
        evidence.append(str(path))
    passed = story.check_offline(audits["marked"], folder)
    return DemoResult(
        suspects=suspects,
        training=training,
        matmul_bf16_gflops=gflops,
        seconds_total=round(time.monotonic() - began, 1),
        evidence=evidence,
        steps_passed_offline=passed,
    )


def matmul_bf16_gflops() -> float:
    """This machine's bf16 matrix rate, measured by a child because this room knows no torch."""
    command = [sys.executable, "-P", "-m", "worker.finetune.matmul"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return float(json.loads(output)["bf16_gflops"])
    except (subprocess.SubprocessError, ValueError, KeyError) as error:
        raise StackError(f"the matrix rate could not be measured: {type(error).__name__}") from None
