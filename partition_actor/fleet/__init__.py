"""Workers that stay alive: started, replaced, scaled, drained and updated.

``fleet`` is what users call. A ``controller`` runs in the process of whoever started the fleet, or in a detached actor;
``core.fleet`` decides, and it carries out the actions with Ray. ``worker`` makes the class of the worker actors: the
user's, with methods for the controller. ``spec`` says what a fleet is, and ``store`` keeps that for a controller that
Ray restarts. ``teller`` tells the partition actor how the fleet is, for whoever looks there.

Private: what users import is in ``partition_actor``, ``.errors``, ``.settings`` and ``.testing``.
"""
