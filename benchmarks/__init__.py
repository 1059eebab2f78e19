"""The figures of this project, each a ratio in one run: `./dev bench [NAME...]`. docs/benchmarks.md explains them."""
