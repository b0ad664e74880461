"""A chat template is a program of whoever made the checkpoint: it is bounded."""

import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
import standins
from fuzzing import fuzzed, tried
from hypothesis import given
from hypothesis import strategies as st

from fedlib.models import bounds, loading, templates
from fedlib.settings.errors import SettingsError

EACH = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

HARMFUL = {  # template: what the line says
    LOOP: "it takes more than 0.3 seconds",
    "{{ 'x' * 10**10 }}": "MB of memory",
    "{% for i in range(3000) %}{{ 'x' * 1000 }}{% endfor %}": "characters of 6",
    "{% for i in range(10**9) %}x{% endfor %}": "Range too big",
    "{% set n = 9 %}{{ (n ** (n ** n)) > 1 }}": "it takes more than 0.3 seconds",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}": "RecursionError",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "it is nested too deep",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "unsafe",
    "{{ cycler.__init__.__globals__.os.system('true') }}": "unsafe",
    "{{ lipsum.__globals__['os'].popen('true').read() }}": "unsafe",
    "{% set x = messages.append(1) %}": "unsafe",
    "{% include '/etc/passwd' %}": "no loader",
    "{% import 'os' as os %}": "no loader",
    "{{ raise_exception('no\n\nno') }}": "no no",
    "{{ 1/0 }}": "ZeroDivisionError",
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(bounds, "SECONDS", 0.3)
    monkeypatch.setattr(bounds, "MEMORY", 2**26)


@pytest.mark.parametrize("template", HARMFUL, ids=lambda text: text[:30])
def test_a_harmful_template_is_one_line_before_training(template):
    tokenizer = standins.tokenizer(chat_template=template + EACH)
    began = time.monotonic()
    with pytest.raises(SettingsError) as error:
        templates.prompt_text("hello", tokenizer, "chat")
    assert HARMFUL[template] in str(error.value)
    assert str(error.value).startswith("model.template: chat: the chat template of ")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("harm", [LOOP, "{{ 'x' * 10**10 }}", "{{ raise_exception('no') }}"])
def test_harm_that_waits_for_a_longer_row_is_one_line(harm):
    template = f"{{% if messages[0]['content']|length > 20 %}}{harm}{{% endif %}}" + EACH
    tokenizer = standins.tokenizer(chat_template=template)
    assert templates.prompt_text("hello", tokenizer, "chat").split() == ["hello"]
    with pytest.raises(SettingsError, match="the chat template of .* cannot be used"):
        templates.prompt_text("hello " * 10, tokenizer, "chat")
    with pytest.raises(SettingsError, match="the chat template of .* cannot be used"):
        loading.encode_pairs(tokenizer, ["hello " * 10], ["hi"])


WORDS = [
    "{{",
    "}}",
    "{%",
    "%}",
    "for",
    "m",
    "in",
    "messages",
    "if",
    "endif",
    "endfor",
    "set",
    "=",
    "(",
]
WORDS += [
    ")",
    "[0]",
    ".content",
    "|",
    "length",
    "'x'",
    "9",
    "*",
    "**",
    "~",
    "range",
    "namespace",
    EACH,
]


@fuzzed(60, "chat templates")
@given(words=st.lists(st.sampled_from(WORDS), max_size=12))
def test_any_template_is_used_or_refused_in_one_line(words):
    tokenizer = standins.tokenizer(chat_template=" ".join(words) or False)
    text = tried(lambda: templates.prompt_text("hello", tokenizer, "chat"))
    assert text is None or "hello" in text


def test_the_bound_leaves_no_trace():
    before = signal.getsignal(signal.SIGALRM), resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(SettingsError, match="it cannot be used: .* 0.3 seconds"):
        with bounds.bounded("it"):
            time.sleep(5)
    with pytest.raises(SettingsError, match="it cannot be used: .* 64 MB"):
        with bounds.bounded("it"):
            bytearray(2**30)
    after = signal.getsignal(signal.SIGALRM), resource.getrlimit(resource.RLIMIT_AS)
    assert after == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_what_windows_lacks_is_not_imported():
    script = "import sys; sys.modules['resource'] = None; import fedlib.models.bounds"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_thread_renders_without_an_alarm():
    tokenizer, found = standins.tokenizer(chat_template=EACH), []
    thread = threading.Thread(
        target=lambda: found.append(templates.prompt_text("hello", tokenizer, "chat"))
    )
    thread.start()
    thread.join()
    assert [text.split() for text in found] == [["hello"]]
