# SPDX-License-Identifier: BSD-2-Clause
# The worker without what ties it to a keeper: also what the fuzzer is made of.
SRC_BRIDGE_CORE := $(addprefix tools/bridge/,worker.c relay.c front.c message.c ring.c ivshmem.c \
                     signal.c datagram.c)
SRC_BRIDGE += $(SRC_BRIDGE_CORE) $(addprefix tools/bridge/,main.c options.c keeper.c paths.c \
                storage_vm.c sandbox.c store.c)
