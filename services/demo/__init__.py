"""The demo: real creatives of real A/B tests, replayed through the whole of Trimtab on a simulated clock."""
