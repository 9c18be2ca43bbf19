"""The unprivileged side: asks procmond, keeps what it said, and the `daemoneye` command line."""
