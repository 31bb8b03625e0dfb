"""What loaders do when things go wrong, measured: ``python -m benchmarks.reliability``.

The same scripts for every loader. One that is not installed is shown as "not installed". PyTorch's
come with the project's ``bench`` group; SPDL wants an environment of its own, because it is no part
of the project::

    python -m venv --system-site-packages spdl-environment  # made from the project's environment
    spdl-environment/bin/pip install --no-deps spdl-core
    spdl-environment/bin/python -m benchmarks.reliability

``spdl-core`` is pure Python and needs nothing else here; ``--no-deps`` keeps torch what it was.
When the project's environment is a virtual one itself, ``--system-site-packages`` does not see it:
put a file ``project.pth`` with ``import site; site.addsitedir("<its site-packages>")`` into the
site-packages of the new one instead.
"""
