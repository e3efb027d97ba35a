"""The rules of `raypipe cluster check`: one module a theme, each with its RULES."""

from raypipe.cluster_files.findings import Rule
from raypipe.cluster_files.rules import access, cloud, commands, containers, images, network, nodes, secrets

RULES: tuple[Rule, ...] = tuple(
    rule
    for theme in (network, access, secrets, images, containers, cloud, nodes, commands)
    for rule in theme.RULES
)
