"""`python -m marina.engines.standalone OPTIONS` is the controller."""

from marina.engines.standalone.controller import main

if __name__ == "__main__":
    main()
