"""Everything that can go wrong, in one tree.

CamserveError                                    500 internal_error
├─ BadRequest                                    400 malformed_request
│  └─ MalformedMultipart                         400 malformed_multipart
├─ Unauthorized                                  401 unauthorized
├─ Forbidden                                     403 forbidden
├─ NotFound                                      404 not_found
│  ├─ UnknownModel                               404 unknown_model
│  └─ ModelNotLoaded                             404 model_not_loaded
├─ MethodNotAllowed                              405 method_not_allowed
├─ NotAcceptable                                 406 not_acceptable
├─ BodyTooSlow                                   408 body_too_slow
├─ BodyTooLarge                                  413 body_too_large
├─ UnsupportedMediaType                          415 unsupported_media_type
│  └─ UnsupportedImage                           415 unsupported_image
├─ Unprocessable                                 422 unprocessable
│  ├─ InvalidOption                              422 invalid_option
│  ├─ MissingImage                               422 missing_image
│  ├─ InvalidImage                               422 invalid_image
│  │  ├─ EmptyImage                              422 empty_image
│  │  ├─ TruncatedImage                          422 truncated_image
│  │  ├─ CorruptImage                            422 corrupt_image
│  │  ├─ TooManyPixels                           422 too_many_pixels
│  │  └─ BadImageShape                           422 bad_image_shape
│  ├─ LoadFailed                                 422 load_failed
│  └─ PoisonInput                                422 poison_input
├─ Overloaded                                    429 overloaded
├─ HeadersTooLarge                               431 headers_too_large
├─ NonFiniteOutput                               500 non_finite_output
├─ Unavailable                                   503 unavailable
│  ├─ Draining                                   503 draining
│  ├─ NoWorker                                   503 no_worker
│  ├─ WorkerLost                                 503 worker_lost
│  ├─ ModelLoading                               503 model_loading
│  ├─ ModelFailed                                503 model_failed
│  ├─ ModelReplaced                              503 model_replaced
│  └─ NotEnoughMemory                            503 not_enough_memory
├─ DeadlineExceeded                              504 deadline_exceeded
└─ SetupError                                    (never sent: it ends a command, or a loading)
   ├─ ManifestError
   └─ ModelCheckFailed

``status`` and ``code`` are the public contract of a class; the message is public too and says what
to do. The cause (``raise … from exc``) is logged and never sent.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar


class CamserveError(Exception):
    """An error with a public message.

    Args:
        detail: what went wrong and what to do about it, for the caller to read.
        fields: ``(field, detail)`` pairs where several options are wrong at once.
        retry_after: seconds after which a repeat is worth it, or None.
        extra: further members of the problem document (RFC 9457), such as ``limits``.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        fields: Sequence[tuple[str, str]] = (),
        retry_after: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = tuple(fields)
        self.retry_after = retry_after
        self.extra = extra or {}

    def as_line(self) -> dict[str, Any]:
        """All of it, to cross a socket as JSON; ``error_from_line`` is the way back."""
        return {
            "code": self.code,
            "detail": self.detail,
            "fields": self.fields,
            "retry_after": self.retry_after,
            "extra": self.extra,
        }


class BadRequest(CamserveError):
    status, code, title = 400, "malformed_request", "Malformed request"


class MalformedMultipart(BadRequest):
    code, title = "malformed_multipart", "Malformed multipart body"


class Unauthorized(CamserveError):
    status, code, title = 401, "unauthorized", "API key missing or wrong"


class Forbidden(CamserveError):
    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(CamserveError):
    status, code, title = 404, "not_found", "Not found"


class UnknownModel(NotFound):
    code, title = "unknown_model", "Unknown model"


class ModelNotLoaded(NotFound):
    code, title = "model_not_loaded", "Model not loaded"


class MethodNotAllowed(CamserveError):
    status, code, title = 405, "method_not_allowed", "Method not allowed"


class NotAcceptable(CamserveError):
    status, code, title = 406, "not_acceptable", "Not acceptable"


class BodyTooSlow(CamserveError):
    status, code, title, retryable = 408, "body_too_slow", "Request body too slow", True


class BodyTooLarge(CamserveError):
    status, code, title = 413, "body_too_large", "Request body too large"


class UnsupportedMediaType(CamserveError):
    status, code, title = 415, "unsupported_media_type", "Unsupported content type"


class UnsupportedImage(UnsupportedMediaType):
    code, title = "unsupported_image", "Unsupported image format"


class Unprocessable(CamserveError):
    status, code, title = 422, "unprocessable", "Unprocessable"


class LoadFailed(Unprocessable):
    code, title = "load_failed", "The model cannot be loaded"


class InvalidOption(Unprocessable):
    code, title = "invalid_option", "Invalid option"

    @classmethod
    def of(cls, option: str, detail: str, extra: dict[str, Any] | None = None) -> "InvalidOption":
        """One option is wrong; ``detail`` goes on after its name."""
        return cls(f"{option}: {detail}.", fields=[(option, detail)], extra=extra)


class MissingImage(Unprocessable):
    code, title = "missing_image", "Missing image"


class InvalidImage(Unprocessable):
    code, title = "invalid_image", "Invalid image"


class EmptyImage(InvalidImage):
    code, title = "empty_image", "Empty image"


class TruncatedImage(InvalidImage):
    code, title = "truncated_image", "Truncated image"


class CorruptImage(InvalidImage):
    code, title = "corrupt_image", "Corrupt image"


class TooManyPixels(InvalidImage):
    code, title = "too_many_pixels", "Too many pixels"


class BadImageShape(InvalidImage):
    code, title = "bad_image_shape", "Image too narrow or too long"


class PoisonInput(Unprocessable):
    code, title = "poison_input", "Refused after it ended two workers"


class Overloaded(CamserveError):
    status, code, title, retryable = 429, "overloaded", "Too many requests", True


class HeadersTooLarge(CamserveError):
    status, code, title = 431, "headers_too_large", "Request headers too large"


class NonFiniteOutput(CamserveError):
    code, title = "non_finite_output", "The model's output is not finite"


class Unavailable(CamserveError):
    status, code, title, retryable = 503, "unavailable", "Service unavailable", True


class Draining(Unavailable):
    code, title = "draining", "Shutting down"


class NoWorker(Unavailable):
    code, title = "no_worker", "No worker ready"


class WorkerLost(Unavailable):
    code, title = "worker_lost", "Worker lost"


class ModelLoading(Unavailable):
    code, title = "model_loading", "Model loading"


class ModelFailed(Unavailable):
    code, title, retryable = "model_failed", "Model failed to load", False


class ModelReplaced(Unavailable):
    code, title = "model_replaced", "Another version of the model is loaded now"


class NotEnoughMemory(Unavailable):
    code, title = "not_enough_memory", "Not enough memory for the model"


class DeadlineExceeded(CamserveError):
    status, code, title, retryable = 504, "deadline_exceeded", "Deadline exceeded", True


class SetupError(CamserveError):
    code, title = "setup_error", "Setup error"


class ManifestError(SetupError):
    code, title = "manifest_error", "Manifest error"


class ModelCheckFailed(SetupError):
    code, title = "model_check_failed", "Model check failed"


def error_from_line(line: dict[str, Any]) -> CamserveError:
    """Rebuild an error that crossed a socket, see ``CamserveError.as_line``."""
    return _BY_CODE[line["code"]](
        line["detail"],
        fields=[(field, detail) for field, detail in line["fields"]],
        retry_after=line["retry_after"],
        extra=line["extra"],
    )


def _tree(cls: type[CamserveError]) -> Iterator[type[CamserveError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _tree(sub)


_BY_CODE = {cls.code: cls for cls in _tree(CamserveError)}
