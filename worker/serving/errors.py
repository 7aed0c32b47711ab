"""Everything this server refuses or fails at, each with its HTTP status and stable code."""

from __future__ import annotations

from typing import ClassVar


class ServingError(Exception):
    """Root of this package's errors, rendered as OpenAI's error envelope.

    The message may be shown to the caller: it never holds a prompt, an answer or a secret.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    type: ClassVar[str] = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.param))


def _rebuild(cls: type[ServingError], message: str, param: str | None) -> ServingError:
    return cls(message, param=param)


class InvalidRequest(ServingError):
    """The request can't be answered as it stands."""

    status = 400
    code = "invalid_request"


class UnsupportedParameter(ServingError):
    """A parameter of OpenAI's wire that this server does not honour, and so does not ignore either."""

    status = 400
    code = "unsupported_parameter"


class ContextLengthExceeded(ServingError):
    """Prompt and answer together don't fit the model's context."""

    status = 400
    code = "context_length_exceeded"


class AdapterInvalid(ServingError):
    """The adapter folder breaks a rule; the message says which."""

    status = 400
    code = "invalid_adapter"


class AdapterNameTaken(ServingError):
    """The name already stands for another folder."""

    status = 400
    code = "adapter_exists"


class TokenRefused(ServingError):
    """No bearer token, or not the right one."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class ModelNotFound(ServingError):
    """Neither the base model nor an adapter has that name."""

    status = 404
    code = "model_not_found"


class QueueFull(ServingError):
    """More rows wait than the operator allows; a retry in a moment may be taken."""

    status = 429
    code = "queue_full"
    type = "rate_limit_error"


class GenerationFailed(ServingError):
    """A step of the model failed; the rows of that step are lost, the server goes on."""

    status = 500
    code = "generation_failed"
    type = "server_error"


class NotReady(ServingError):
    """The weights are still being loaded, or could not be."""

    status = 503
    code = "model_loading"
    type = "server_error"


class ModelUnsupported(ServingError):
    """The base model's architecture or tokenizer is not one this server computes."""

    status = 503
    code = "model_unsupported"
    type = "server_error"


class SettingsInvalid(ServingError):
    """The operator's settings can't be used; the message names the setting."""

    status = 503
    code = "invalid_settings"
    type = "server_error"
