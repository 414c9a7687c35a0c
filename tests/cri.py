#!/usr/bin/python3
"""One call of the Container Runtime Interface, as the kubelet makes it.

    cri.py SOCKET METHOD REQUEST

REQUEST and what is printed are JSON with the field names of `runtime.v1` (api.proto of k8s.io/cri-api). The few messages
that the tests need are described below, so that neither the compiler of that file nor crictl, which Debian does not have, is wanted.
"""

import json
import sys

import grpc

# Message: field name -> (number, type). A type in a list is repeated; "map" is from string to string.
MESSAGES = {
    "PodSandboxMetadata": {"name": (1, "string"), "uid": (2, "string"), "namespace": (3, "string")},
    "NamespaceOption": {"network": (1, "int"), "pid": (2, "int"), "ipc": (3, "int")},
    "SandboxSecurity": {"namespace_options": (1, "NamespaceOption")},
    "LinuxPodSandboxConfig": {"cgroup_parent": (1, "string"), "security_context": (2, "SandboxSecurity")},
    "PodSandboxConfig": {
        "metadata": (1, "PodSandboxMetadata"), "hostname": (2, "string"), "log_directory": (3, "string"),
        "annotations": (7, "map"), "linux": (8, "LinuxPodSandboxConfig"),
    },
    "ContainerMetadata": {"name": (1, "string"), "attempt": (2, "int")},
    "ImageSpec": {"image": (1, "string")},
    "KeyValue": {"key": (1, "string"), "value": (2, "string")},
    "Mount": {"container_path": (1, "string"), "host_path": (2, "string"), "readonly": (3, "int")},
    "LinuxContainerResources": {
        "cpu_period": (1, "int"), "cpu_quota": (2, "int"), "cpu_shares": (3, "int"),
        "memory_limit_in_bytes": (4, "int"), "oom_score_adj": (5, "int"),
    },
    "ContainerSecurity": {"namespace_options": (3, "NamespaceOption")},
    "LinuxContainerConfig": {"resources": (1, "LinuxContainerResources"), "security_context": (2, "ContainerSecurity")},
    "ContainerConfig": {
        "metadata": (1, "ContainerMetadata"), "image": (2, "ImageSpec"), "command": (3, ["string"]),
        "args": (4, ["string"]), "working_dir": (5, "string"), "envs": (6, ["KeyValue"]), "mounts": (7, ["Mount"]),
        "log_path": (11, "string"), "linux": (15, "LinuxContainerConfig"),
    },
    "RunPodSandboxRequest": {"config": (1, "PodSandboxConfig"), "runtime_handler": (2, "string")},
    "RunPodSandboxResponse": {"pod_sandbox_id": (1, "string")},
    "PodSandboxStatusRequest": {"pod_sandbox_id": (1, "string")},
    "PodSandboxNetworkStatus": {"ip": (1, "string")},
    "PodSandboxStatus": {"id": (1, "string"), "state": (3, "int"), "network": (5, "PodSandboxNetworkStatus")},
    "PodSandboxStatusResponse": {"status": (1, "PodSandboxStatus")},
    "StopPodSandboxRequest": {"pod_sandbox_id": (1, "string")},
    "RemovePodSandboxRequest": {"pod_sandbox_id": (1, "string")},
    "CreateContainerRequest": {
        "pod_sandbox_id": (1, "string"), "config": (2, "ContainerConfig"), "sandbox_config": (3, "PodSandboxConfig"),
    },
    "CreateContainerResponse": {"container_id": (1, "string")},
    "StartContainerRequest": {"container_id": (1, "string")},
    "StopContainerRequest": {"container_id": (1, "string"), "timeout": (2, "int")},
    "RemoveContainerRequest": {"container_id": (1, "string")},
    "ContainerStatusRequest": {"container_id": (1, "string")},
    "ContainerStatus": {
        "id": (1, "string"), "state": (3, "int"), "exit_code": (7, "int"), "reason": (10, "string"),
        "message": (11, "string"),
    },
    "ContainerStatusResponse": {"status": (1, "ContainerStatus")},
    "ExecSyncRequest": {"container_id": (1, "string"), "cmd": (2, ["string"]), "timeout": (3, "int")},
    "ExecSyncResponse": {"stdout": (1, "string"), "stderr": (2, "string"), "exit_code": (3, "int")},
    "RuntimeCondition": {"type": (1, "string"), "status": (2, "int"), "reason": (3, "string"), "message": (4, "string")},
    "RuntimeStatus": {"conditions": (1, ["RuntimeCondition"])},
    "StatusRequest": {},
    "StatusResponse": {"status": (1, "RuntimeStatus")},
}


def varint(number):
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def block(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def encode(message, value):
    out = b""
    for name, field in value.items():
        number, kind = MESSAGES[message][name]
        if kind == "map":
            out += b"".join(block(number, encode("KeyValue", {"key": k, "value": v})) for k, v in field.items())
            continue
        for one in field if isinstance(kind, list) else [field]:
            inner = kind[0] if isinstance(kind, list) else kind
            if inner == "int":
                out += varint(number << 3) + varint(int(one))
            elif inner == "string":
                out += block(number, one.encode())
            else:
                out += block(number, encode(inner, one))
    return out


def decode(message, content):
    """Fields that are not described are left out."""
    known = {number: (name, kind) for name, (number, kind) in MESSAGES[message].items()}
    value, at = {}, 0

    def read_varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = content[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(content):
        tag = read_varint()
        if tag & 7 == 0:
            field = read_varint()
        elif tag & 7 == 2:
            length = read_varint()
            field = content[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {tag & 7}")
        if tag >> 3 not in known:
            continue
        name, kind = known[tag >> 3]
        inner = kind[0] if isinstance(kind, list) else kind
        if inner == "string":
            field = field.decode(errors="replace")
        elif inner not in ("int", "map"):
            field = decode(inner, field)
        if isinstance(kind, list):
            value.setdefault(name, []).append(field)
        else:
            value[name] = field
    return value


def main():
    socket, method, request = sys.argv[1:]
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        call = channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")
        try:
            answer = call(encode(f"{method}Request", json.loads(request)), timeout=60)
        except grpc.RpcError as error:
            sys.exit(f"{method}: {error.code().name}: {error.details()}")
    print(json.dumps(decode(f"{method}Response", answer) if f"{method}Response" in MESSAGES else {}))


main()
