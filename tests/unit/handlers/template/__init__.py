"""The handler `template`, in memory."""
