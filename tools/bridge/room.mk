# SPDX-License-Identifier: BSD-2-Clause
SRC_BRIDGE += $(addprefix tools/bridge/,main.c options.c keeper.c paths.c storage_vm.c sandbox.c \
                store.c worker.c relay.c front.c message.c ring.c ivshmem.c signal.c)
