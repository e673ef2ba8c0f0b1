"""``python -m haa_peft`` is ``haa-peft``."""

from haa_peft.cli import main

if __name__ == "__main__":
    main()
