"""Confinement of procmond's three processes: capabilities, no_new_privs, system call filters.

One rule: nothing here trusts a return code alone; what is reported was read back from the kernel.
"""

from procmond.confine.groups import reserve_process_group
from procmond.confine.roles import confine_collector, confine_front, confine_supervisor
from procmond.confinement import Confinement

__all__ = ["Confinement", "confine_collector", "confine_front", "confine_supervisor", "reserve_process_group"]
