"""The nouns of Bay as every part sees them: store, API, SDK and CLI share these frozen classes.

Times are aware UTC datetimes here and RFC 3339 text ending in ``Z`` on the wire; sizes are bytes and
durations seconds unless the name says otherwise; bytes are base64 on the wire. `from_wire` and `to_wire` are
the two directions; fields that a newer server adds are ignored. `__all__` has the names that `bay` exports.
"""

from bay.models.admin import (
    GarbageRun,
    GarbageState,
    GarbageTaskResult,
    HostMemory,
    HostOverview,
    HostSandboxes,
    HostStorage,
    PoolState,
    PreparedSandbox,
    Replica,
    ReplicaState,
    RestartPreparation,
    SettingInForce,
    StartBucket,
    StartTimes,
)
from bay.models.admin import GarbageTask as GarbageTask
from bay.models.admin import MemoryFate as MemoryFate
from bay.models.admin import SettingOrigin as SettingOrigin
from bay.models.brief import Brief as Brief
from bay.models.browser import BrowserBatch, BrowserReplay, BrowserResult, BrowserStep, BrowserTrace
from bay.models.capabilities import CheckpointKind as CheckpointKind
from bay.models.capabilities import EgressKind as EgressKind
from bay.models.capabilities import OtherImages as OtherImages
from bay.models.capabilities import PauseKind as PauseKind
from bay.models.capabilities import ServerCapabilities
from bay.models.codec import from_wire as from_wire
from bay.models.codec import to_wire as to_wire
from bay.models.console import ConsoleCode
from bay.models.console import SignIn as SignIn
from bay.models.events import EVENT_TYPES as EVENT_TYPES
from bay.models.events import GAP as GAP
from bay.models.events import Event, Webhook
from bay.models.execs import Exec, HistoryEntry, OutputChunk, Process, Screen, ShellResult
from bay.models.execs import ExecState as ExecState
from bay.models.execs import ExecType as ExecType
from bay.models.execs import Stream as Stream
from bay.models.files import (
    FileChange,
    FileEntry,
    FileEvent,
    FileInfo,
    FileVersion,
    SearchMatch,
    SearchResult,
)
from bay.models.files import FileChangeType as FileChangeType
from bay.models.files import FileEventType as FileEventType
from bay.models.files import FileType as FileType
from bay.models.images import ContainerImage, PullProgress, RegistryLogin
from bay.models.images import EntrypointUse as EntrypointUse
from bay.models.images import ImageState as ImageState
from bay.models.images import Pull as Pull
from bay.models.kernels import CELL_EVENT_FIELDS as CELL_EVENT_FIELDS
from bay.models.kernels import CellEvent, Kernel, KernelSpec, PythonResult
from bay.models.kernels import CellEventType as CellEventType
from bay.models.kernels import CellStatus as CellStatus
from bay.models.kernels import KernelState as KernelState
from bay.models.kernels import PythonData as PythonData
from bay.models.kernels import PythonOutput as PythonOutput
from bay.models.keys import AuditEntry, Key, Limits, NewKey
from bay.models.keys import KeyScope as KeyScope
from bay.models.metrics import MetricsPoint, SandboxMetrics
from bay.models.network import (
    BrokerRefusal,
    HeaderInjection,
    NetworkCounter,
    NetworkPolicy,
    NetworkRule,
    NetworkState,
    Port,
    PortLink,
    PortSettings,
    RefusedName,
    SandboxUrl,
)
from bay.models.network import CurrentPolicy as CurrentPolicy
from bay.models.network import NetworkMode as NetworkMode
from bay.models.network import NetworkProtocol as NetworkProtocol
from bay.models.network import PortAccess as PortAccess
from bay.models.remote import PushState as PushState
from bay.models.remote import RemoteCheckpoint
from bay.models.sandboxes import DEFAULT_CAPABILITIES as DEFAULT_CAPABILITIES
from bay.models.sandboxes import Capability as Capability
from bay.models.sandboxes import Compute as Compute
from bay.models.sandboxes import Container, Failure, Profile, Resources, Sandbox
from bay.models.sandboxes import OnExpiry as OnExpiry
from bay.models.sandboxes import Sizes as Sizes
from bay.models.sandboxes import Status as Status
from bay.models.secrets import SandboxSecret, Secret
from bay.models.services import Service, ServiceHealth, ServiceSpec
from bay.models.services import ServiceState as ServiceState
from bay.models.skills import CandidateStatus as CandidateStatus
from bay.models.skills import SkillCandidate as SkillCandidate
from bay.models.skills import SkillDeletion as SkillDeletion
from bay.models.skills import SkillEvaluation as SkillEvaluation
from bay.models.skills import SkillHealth as SkillHealth
from bay.models.skills import SkillPayload as SkillPayload
from bay.models.skills import SkillRelease as SkillRelease
from bay.models.skills import SkillStage as SkillStage
from bay.models.skills import SkillType as SkillType
from bay.models.storage import Cargo, Checkpoint, CheckpointPolicy, Volume
from bay.models.storage import CheckpointContent as CheckpointContent
from bay.models.storage import Persist as Persist
from bay.models.templates import Template
from bay.models.templates import TemplateState as TemplateState
from bay.models.usage import SandboxUsage

__all__ = [
    "AuditEntry",
    "BrokerRefusal",
    "BrowserBatch",
    "BrowserReplay",
    "BrowserResult",
    "BrowserStep",
    "BrowserTrace",
    "Cargo",
    "CellEvent",
    "Checkpoint",
    "CheckpointPolicy",
    "ConsoleCode",
    "Container",
    "ContainerImage",
    "Event",
    "Exec",
    "Failure",
    "FileChange",
    "FileEntry",
    "FileEvent",
    "FileInfo",
    "FileVersion",
    "GarbageRun",
    "GarbageState",
    "GarbageTaskResult",
    "HeaderInjection",
    "HistoryEntry",
    "HostMemory",
    "HostOverview",
    "HostSandboxes",
    "HostStorage",
    "Kernel",
    "KernelSpec",
    "Key",
    "Limits",
    "MetricsPoint",
    "NetworkCounter",
    "NetworkPolicy",
    "NetworkRule",
    "NetworkState",
    "NewKey",
    "OutputChunk",
    "PoolState",
    "Port",
    "PortLink",
    "PortSettings",
    "PreparedSandbox",
    "Process",
    "Profile",
    "PullProgress",
    "PythonResult",
    "RefusedName",
    "RegistryLogin",
    "RemoteCheckpoint",
    "Replica",
    "ReplicaState",
    "Resources",
    "RestartPreparation",
    "Sandbox",
    "SandboxMetrics",
    "SandboxSecret",
    "SandboxUrl",
    "SandboxUsage",
    "Screen",
    "SearchMatch",
    "SearchResult",
    "Secret",
    "ServerCapabilities",
    "Service",
    "ServiceHealth",
    "ServiceSpec",
    "SettingInForce",
    "ShellResult",
    "StartBucket",
    "StartTimes",
    "Template",
    "Volume",
    "Webhook",
]
