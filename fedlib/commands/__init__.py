"""What `fedlib COMMAND` does: plan, reproduce, run, runs, export, world.

A module a command, with its page or model card as a Jinja2 template beside it. Only
`fedlib.__main__` imports this room.
"""
