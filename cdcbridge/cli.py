"""The command line. The only place where an error becomes a line on stderr and an exit status.

Everything heavy is imported inside the commands, so that help and wrong usage answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from cdcbridge import __version__
from cdcbridge.errors import BridgeError, ConfigError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from cdcbridge.settings import Config

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """One line on stderr, and exit status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"cdcbridge: {self.message}", file=file, err=True)


class Mistake(Failure):
    """Wrong usage or configuration: exit status 2."""

    exit_code = 2


class Commands(click.Group):
    """Runs a command, and tells an operator of a mistake or a failure in one line."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """See `click.Group.make_context`."""
        with _told_in_one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Group.invoke`."""
        with _told_in_one_line():
            return super().invoke(ctx)


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    try:
        yield
    except ConfigError as problem:
        raise Mistake(str(problem)) from problem
    except BridgeError as problem:
        raise Failure(str(problem)) from problem
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as problem:
        raise Mistake(_usage_problem(problem)) from problem


def _usage_problem(problem: click.UsageError) -> str:
    command = problem.ctx.command_path if problem.ctx else "cdcbridge"
    return f"{problem.format_message().rstrip('.')}; see '{command} --help'"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cdcbridge")
def main() -> None:
    """Every committed change of a database onto RabbitMQ: confirmed, in order, resumable."""


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which help lists them."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_config_file = click.option(
    "--config", "config_file", metavar="FILE", type=click.Path(path_type=Path), help="A TOML file with settings."
)
_logging = _options(
    click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error."),
    click.option("--log-format", metavar="FORMAT", help="auto, console or json."),
)
_broker = _options(
    click.option("--amqp", metavar="URL", help="RabbitMQ: amqp://user:password@host:port/vhost."),
    click.option("--exchange", metavar="NAME", help="The topic exchange."),
    click.option(
        "--durable/--transient",
        default=None,
        help="Whether the exchange survives a restart of the broker. Neither: as it is, or durable where it is new.",
    ),
)
_engine = _options(
    click.option("--listen", metavar="HOST:PORT", help="Where the built-in engine listens; port 0 picks a free one."),
    click.option("--data", metavar="FILE", type=click.Path(path_type=Path), help="The built-in engine's data file."),
    click.option(
        "--initial-values",
        metavar="RULE",
        help="Which changefeeds begin with the values that are there, unasked: seed or explicit.",
    ),
    click.option(
        "--password-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="A file with the password of the engine's user admin.",
    ),
)
_state = click.option(
    "--state", metavar="DIR", type=click.Path(path_type=Path), help="The folder for positions and the data file."
)
_grace = click.option("--grace", metavar="SECONDS", help="How long unconfirmed messages may take at the end.")


def _loaded(
    config_file: Path | None, parameters: dict[str, Any], *, uses: Collection[str] = ("engine", "rabbitmq")
) -> tuple[Config, FilteringBoundLogger]:
    """The configuration, and the log that it asks for. See `config.load` for `uses`."""
    from cdcbridge import config, logs

    keys = config.parameters()
    settings = config.load({keys[name]: value for name, value in parameters.items()}, file=config_file, uses=uses)
    return settings, logs.configure(settings.log.level, settings.log.format)


@main.command()
@click.argument("source", required=False)
@click.option("--table", multiple=True, metavar="TABLE", help="Publish this table only; may be repeated.")
@_options(_broker, _state)
@click.option("--name", metavar="NAME", help="The bridge's name, in its checkpoint and in each message_id.")
@_options(_engine, _grace, _config_file, _logging)
def publish(config_file: Path | None, **parameters: Any) -> None:
    """Publish every change of SOURCE, a URL; of the built-in engine if it is left out.

    Runs until SIGTERM or SIGINT, then waits for what is unconfirmed and saves the position.
    """
    from cdcbridge import daemon, service

    settings, log = _loaded(config_file, parameters)
    daemon.run(lambda stop: service.run_publisher(settings, stop, log))


@main.command()
@_options(_engine, _state, _config_file, _logging)
def engine(config_file: Path | None, **parameters: Any) -> None:
    """Run the built-in engine alone: a database for RethinkDB's drivers."""
    from cdcbridge import daemon, service

    settings, log = _loaded(config_file, parameters, uses=("engine",))
    daemon.run(lambda stop: service.run_engine(settings, stop, log))


@main.command()
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@_broker
@click.option("--queue", metavar="NAME", help="A durable queue of this name, which keeps what nobody reads yet.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["pretty", "json"]),
    default="pretty",
    show_default=True,
    help="What to print.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after so many messages.")
@_options(_config_file, _logging)
def listen(
    patterns: tuple[str, ...],
    queue: str | None,
    form: Any,
    count: int | None,
    config_file: Path | None,
    **parameters: Any,
) -> None:
    """Print the changes whose routing keys match a PATTERN: words and dots, * for one word, # for any number."""
    import asyncio

    from cdcbridge.logs import wants_color
    from listeners.worker import ListenSettings
    from listeners.worker import listen as run

    settings, log = _loaded(config_file, parameters, uses=("rabbitmq",))
    rabbitmq = settings.rabbitmq
    wanted = ListenSettings(
        url=rabbitmq.url.get_secret_value(),
        exchange=rabbitmq.exchange.name,
        exchange_durable=rabbitmq.exchange.durable,
        patterns=patterns,
        queue=queue,
        format=form,
        count=count,
        color=wants_color(sys.stdout),
        heartbeat_s=rabbitmq.heartbeat_s,
    )
    sys.exit(asyncio.run(run(wanted, sys.stdout.buffer, log)))


@main.command()
@_options(_broker, _state)
@click.argument("source", required=False)
@_options(_engine, _config_file, _logging)
def check(config_file: Path | None, **parameters: Any) -> None:
    """Try what `publish` would use, and say what is wrong and how to mend it."""
    import asyncio

    from cdcbridge import check as checks

    settings, _ = _loaded(config_file, parameters)
    sys.exit(asyncio.run(checks.run(settings)))


@main.command()
@click.option("--amqp", envvar="AMQP_URL", metavar="URL", help="Use the broker at this URL, if it answers.")
@click.option("--once", is_flag=True, help="Stop after a handful of changes.")
def demo(amqp: str | None, once: bool) -> None:
    """Engine, publisher, listener and a writer in one terminal."""
    from cdcbridge import demo as demonstration

    sys.exit(demonstration.main(amqp, once))
