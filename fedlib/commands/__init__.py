"""What `fedlib COMMAND` does: plan, reproduce, run, runs, export, world. Nothing imports this room except
`fedlib.__main__`.
"""
