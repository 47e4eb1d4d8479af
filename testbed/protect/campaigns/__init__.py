"""A campaign with a [protect] table: its model protected, the same faults on that, and what it bought, in one folder."""
