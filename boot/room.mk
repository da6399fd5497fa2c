# SPDX-License-Identifier: BSD-2-Clause
SRC_ALL    += boot/ksyms.c
SRC_FW     += boot/memory.c boot/uefi.c boot/enter.c boot/vm.c boot/backtrace.c boot/trap.c
SRC_x86_64 += $(addprefix boot/x86_64/,start.S switch.S vectors.S clock.c lapic.c mmu.c \
              pvh.c trap.c uefi_move.S)
SRC_aarch64 += $(addprefix boot/aarch64/,start.S switch.S vectors.S clock.c gic.c its.c main.c \
              mmu.c psci.c trap.c uefi_move.S)
SRC_HOST   += boot/x86_64/switch.S
