"""What several tests share: workers that crash, clusters, models of other libraries, and what is checked of every command."""
