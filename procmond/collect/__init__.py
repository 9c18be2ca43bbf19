"""What reads what processes control: /proc, executables, kernel events. Expendable, and judges nothing."""
