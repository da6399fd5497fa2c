# SPDX-License-Identifier: BSD-2-Clause
SRC_ALL    += boot/ksyms.c
SRC_FW     += boot/memory.c
SRC_x86_64 += $(addprefix boot/x86_64/,start.S switch.S vectors.S backtrace.c clock.c lapic.c \
              mmu.c pvh.c trap.c)
SRC_HOST   += boot/x86_64/switch.S
