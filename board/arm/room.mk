# SPDX-License-Identifier: BSD-2-Clause
SRC_aarch64 += $(addprefix board/arm/,arm.c button.c console.c fw_cfg_mmio.c pci_host.c sbsa.c \
               tables.c)
