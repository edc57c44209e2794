"""`ownship world`: its flags, and what it does with them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ownship.errors import UserError


@dataclass(frozen=True)
class World:
    """Build a world from words: a glTF model to walk in, a scene file, a picture."""

    words: Annotated[str, Positional, arg(metavar="WORDS")]
    """What should be there: "a small living room with two armchairs facing a fireplace". English or German."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("world.glb")
    """The glTF file. --png and --json lie beside it under the same name."""
    png: bool = False
    """Also a picture of it."""
    json: bool = False
    """Also the scene, which --scene reads again."""
    scene: Path | None = None
    """Begin with this scene (a .json) instead of nothing: the words change it."""
    language: Literal["en", "de"] | None = None
    """Of the description; by default that of the words."""
    model: str = "scripted"
    """Who decides: "scripted" is the parser without a model; else a model that has learnt worlds (a folder, a .gguf file, a zoo or
    hub name). One that has not says valid things, but hardly what was meant."""
    gateway: Path | None = None
    """A gateway.toml: --model is then one of its models."""
    seed: int = 0
    """The same seed gives the same world."""


def run(config: World) -> int:
    """Builds it; prints the ops as they are decided and what came of them. 1 if the words cannot be satisfied (nothing is written
    then). Raises UserError for what the user can mend."""
    from ownship.surfaces.worlds import build
    from ownship.surfaces.worlds.types import History, Scene

    scene = Scene()
    if config.scene is not None:
        scene = build.readable(config.scene.read_bytes())
    if config.out.suffix.lower() != ".glb":
        raise UserError(f"--out ends in .glb, not {config.out.suffix or 'nothing'}; --png and --json write the others beside it")
    if config.out.parent != Path() and not config.out.parent.is_dir():
        raise UserError(f"there is no folder {config.out.parent}")

    def note(event: dict[str, str]) -> None:
        if "line" in event:
            print(f"  {event['line']}", file=sys.stderr, flush=True)

    world = build.build(config.words, History(scenes=(scene,)), model=config.model, gateway=config.gateway,
                        language=config.language, seed=config.seed, note=note)
    if not world.changed:
        print(world.said, file=sys.stderr)
        return 1
    files = {config.out: build.glb(world.scene)}
    if config.png:
        files[config.out.with_suffix(".png")] = build.png(world.scene)
    if config.json:
        files[config.out.with_suffix(".json")] = build.written(world.scene)
    for path, content in files.items():
        path.write_bytes(content)
    print(build.description(world.scene, world.language))
    print(f"{', '.join(map(str, files))}   ({world.seconds:.1f} s)", file=sys.stderr)
    return 0
