"""``firstopen init``: write a starter configuration."""

from pathlib import Path

import rich_click as click

from service.cli.output import fail
from service.config.env_file import ENV_FILE, BadEnvFile, read_env_file, write_env_file
from service.config.starter import STARTER, next_steps

_STARTER = Path("firstopen.toml")


@click.command("init")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default=_STARTER)
def command(path: Path) -> None:
    """Write a commented starter file (firstopen.toml, or PATH), and beside it a .env with a new secret.

    Existing files are not changed.
    """
    env_path = path.parent / ENV_FILE
    try:
        existing = read_env_file(env_path)
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER)
        is_new = write_env_file(env_path)
    except BadEnvFile as exc:
        fail(exc)
    except FileExistsError:
        fail(f"{path} exists already; it is left as it is")
    except OSError as exc:
        fail(f"cannot write {exc.filename}: {exc.strerror or exc}")
    has_secret = is_new or bool(existing.get("FIRSTOPEN_SECRET"))
    click.echo(next_steps(path, env_path, is_new=is_new, has_secret=has_secret))
