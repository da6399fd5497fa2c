# SPDX-License-Identifier: BSD-2-Clause
SRC_x86_64 += $(addprefix board/pc/,console.c fw_cfg_port.c mmio.c pc.c pci_host.c power.c)
