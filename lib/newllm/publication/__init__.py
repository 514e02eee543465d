"""Results for readers: leaderboard, reference, tables of documents."""
