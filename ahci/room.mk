# SPDX-License-Identifier: BSD-2-Clause
SRC_ALL += $(addprefix ahci/,controller.c port.c command.c recover.c identify.c cd.c disk.c mmio.c pci.c)
# The model of a controller, for the loopback arrangement of the host form.
SRC_HOST += $(addprefix ahci/device/,model.c media.c)
