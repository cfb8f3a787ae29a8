"""Bodies of what waits before it becomes a run. Moments are RFC 3339 text in UTC."""

from ironflow.web.wire import View


class DebounceEntryView(View, frozen=True, kw_only=True):
    """Debounced events that wait for one run, by the value of the policy's key."""

    environment_id: str
    function_id: str
    function_version: int
    debounce_key: str
    """Empty for all events without a value (or for a policy without a key)."""
    path_key: str
    """The key as it stands in the path of this entry: base64url, `-` for the empty one."""
    event_id: str
    """The newest event, with whose data it will run."""
    events: int
    armed_at: str
    """When the first of them came."""
    fires_at: str
    """When the run starts, if no more events come."""
    period_ms: int


class BatchEntryView(View, frozen=True, kw_only=True):
    """Events that wait to be taken by one run, by the value of the policy's key."""

    environment_id: str
    function_id: str
    function_version: int
    batch_key: str
    path_key: str
    event_id: str
    """The newest event."""
    events: int
    size: int
    """With so many events it starts at once."""
    armed_at: str
    fires_at: str


class SingletonEntryView(View, frozen=True, kw_only=True):
    """The run of a singleton function that is under way, by the value of the policy's key."""

    environment_id: str
    function_id: str
    singleton_key: str
    run_id: str
    next_run_id: str | None
    """The run that takes its place once it has ended."""


class SingletonPage(View, frozen=True):
    """Singletons that hold a run."""

    items: list[SingletonEntryView]


class BatchPage(View, frozen=True):
    """Batches that are not full."""

    items: list[BatchEntryView]


class PendingView(View, frozen=True, kw_only=True):
    """What was done with what waited: `started` with the run, or `cancelled`."""

    status: str
    function_id: str
    key: str
    run_id: str | None
    event_id: str
