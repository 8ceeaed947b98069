"""What `data.check` looks for, one kind of fault to a module."""
