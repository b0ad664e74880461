"""The templates of this folder, filled in; values are escaped in *.html.j2 only."""

from typing import Any


def render(template: str, **values: Any) -> str:
    """A template of this folder with its values; a value that is missing is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedlib", "commands"),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)
