"""A grader behind an OpenAI-compatible endpoint: several questions at once, errors in one line."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import urlsplit

from fedlib.settings import errors
from fedlib.settings.errors import SettingsError

AT_ONCE = 8  # questions that an endpoint is asked at a time
TRIES_OF_CLIENT = 6  # how often the client asks again where the endpoint is busy, with waits
SECONDS = 120  # for one answer
THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


def ask(
    address: str, model: str | None, texts: Sequence[str], temperature: float
) -> Iterator[tuple[int, str]]:
    """(index, answer) of each of texts, as the answers come.

    If a question fails for good, the answers that are under way are still given, then SettingsError
    says in one line what the endpoint said."""
    client = _client(address)
    failure: BaseException | None = None
    given: set[Future] = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = {
            pool.submit(_answer, client, model, text, temperature): i
            for i, text in enumerate(texts)
        }
        for future in as_completed(asked):
            failure = future.exception()
            if failure:
                break
            given.add(future)
            yield asked[future], future.result()

        # After a failure: stop what has not begun, and keep what was paid for.
        if failure:
            under_way = [future for future in asked if not future.cancel()]
            for future in under_way:
                if future not in given and future.exception() is None:
                    yield asked[future], future.result()
            raise _explained(address, model, failure)


def _client(address: str) -> Any:
    """An endpoint's client; SettingsError without openai, or if the key would go unencrypted."""
    try:
        import openai
    except ImportError:
        raise SettingsError(
            "evaluation.grader: an endpoint needs openai: pip install -e .[hub]"
        ) from None

    key = os.environ.get("OPENAI_API_KEY")
    leaves = urlsplit(address).hostname not in THIS_MACHINE
    if key and leaves and address.startswith("http://"):
        raise SettingsError(
            f"evaluation.grader: {address}: OPENAI_API_KEY would go over the network unencrypted: "
            "use https, or unset it"
        )
    return openai.OpenAI(
        base_url=address, api_key=key or "none", max_retries=TRIES_OF_CLIENT, timeout=SECONDS
    )


def _answer(client: Any, model: str | None, text: str, temperature: float) -> str:
    """What the model answers to a text; nothing where the endpoint's reply holds no answer.

    The grader's questions are asked again where nothing comes."""
    import openai

    question = {"model": model, "messages": [{"role": "user", "content": text}]}
    try:
        try:
            made = client.chat.completions.create(**question, temperature=temperature)
        except openai.BadRequestError as error:
            if "temperature" not in str(error):
                raise
            # Some models have only one temperature, and refuse any question that names one.
            made = client.chat.completions.create(**question)
        content = made.choices[0].message.content
    except (AttributeError, LookupError, TypeError, ValueError, openai.APIResponseValidationError):
        # a page of HTML, no JSON, or JSON of another shape
        return ""
    # answers are kept, and an endpoint may repeat what it was sent
    return errors.without_secrets(content) if isinstance(content, str) else ""


def _explained(address: str, model: str | None, failure: BaseException) -> BaseException:
    """A failure of the endpoint as a SettingsError of one line; any other as it is."""
    import openai

    if not isinstance(failure, openai.OpenAIError):
        return failure
    reasons = {
        openai.AuthenticationError: "refuses the key: set OPENAI_API_KEY",
        openai.NotFoundError: f"knows no model {model!r}",
        openai.APIConnectionError: "cannot be reached",
    }
    text = " ".join(str(failure).split())[:200]
    for kind, reason in reasons.items():
        if isinstance(failure, kind):
            text = reason
    return SettingsError(f"evaluation.grader: {address}: {text}")
