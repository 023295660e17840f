"""The other programs that benches measure beside this one."""
