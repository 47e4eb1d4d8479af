"""The public interface: what `import testbed` offers, in typed and documented functions. Scripts import from `testbed`."""
