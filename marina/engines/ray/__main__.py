"""`python -m marina.engines.ray OPTIONS` is the controller."""

from marina.engines.ray.controller import main

if __name__ == "__main__":
    main()
