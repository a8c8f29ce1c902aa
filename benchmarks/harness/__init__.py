"""Contestants in processes of their own, measured alike: what the CPU and the GPU comparison share.

A contestant (contestant.py) names an environment and an adapter (adapter.py). The runner starts
worker.py in that environment and talks to it in JSON lines (protocol.py); turn.py loads a
contestant once, measures what fits in its time (schedule.py) and reports every figure as it comes.
"""
