"""How each process of a service begins: with the settings of its environment, and with its logs as these say."""

import sys

from pydantic import ValidationError

from peelbound.service.logs import configure_logs
from peelbound.service.settings import Settings


def wrong_settings(error: ValidationError) -> list[str]:
    """A sentence for each setting that cannot be used; it begins with the environment variable's name."""
    return [_sentence(".".join(map(str, each["loc"])), str(each["msg"])) for each in error.errors()]


def _sentence(field: str, message: str) -> str:
    message = f"{message.removeprefix('Value error, ').rstrip('.')}."
    return f"PEELBOUND_{field.upper()}: {message}" if field else message  # what several say together is no one's own


def settings_or_exit() -> Settings:
    """The environment's settings; the process's logs are written as they say from here on.

    Raises:
        SystemExit: with 2, if a setting cannot be used; standard error says which, and why.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        sys.stderr.writelines(f"{sentence}\n" for sentence in wrong_settings(error))
        sys.exit(2)
    configure_logs(settings.log_format)
    return settings
