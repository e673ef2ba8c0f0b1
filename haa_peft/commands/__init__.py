"""The core's verbs of ``haa-peft``, a module each: ``add`` declares it, and what it runs imports what it needs."""
