"""Answers of fitted simulators: what would have happened, had a GPT trained on these examples in this order?

`curriculum` says what is asked, `engines` computes it for every kind of simulator, `ask` puts both together under the
names of examples, `answers` are what comes back, `record` writes down the dynamics of a user's own training, `folder`
fits on them, `commands` is the shell's side.
"""
