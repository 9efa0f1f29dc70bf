"""A protoc plugin that writes gRPC stubs for Python with the generator that is built into grpcio-tools.

`buf generate` runs plugins as programs, and grpcio-tools ships its gRPC generator only inside its own protoc. This is
the bridge: it reads a CodeGeneratorRequest from standard input and writes the CodeGeneratorResponse to standard output.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet


def generate(request: plugin_pb2.CodeGeneratorRequest) -> plugin_pb2.CodeGeneratorResponse:
    """Returns the stubs of the services in the request's files; files without a service get none."""
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    asked = set(request.file_to_generate)
    files = [file.name for file in request.proto_file if file.name in asked and file.service]
    if not files:
        return response
    with tempfile.TemporaryDirectory() as folder:
        descriptors, out = Path(folder, "descriptors.binpb"), Path(folder, "out")
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        out.mkdir()
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={descriptors}"]
        done = subprocess.run(
            [*command, f"--grpc_python_out={out}", *files], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            response.error = done.stderr
        for path in sorted(out.rglob("*.py")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text())
    return response


if __name__ == "__main__":
    message = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(generate(message).SerializeToString())
