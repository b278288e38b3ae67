if(STMIXER_CUDA STREQUAL "ON")
  message(FATAL_ERROR "STMIXER_CUDA=ON needs STMIXER_PYTHON=ON: the CUDA kernels are part of the "
    "extension")
endif()

# The C++ libraries for other projects: find_package(stmixer) gives stmixer::engine, which runs
# networks, and stmixer::stmixer, the same with the ops of training. pkg-config knows the engine.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(STMIXER_CONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/stmixer)

install(TARGETS stmixer stmixer_engine EXPORT stmixerTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY csrc/include/stmixer ${PROJECT_BINARY_DIR}/include/stmixer
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT stmixerTargets NAMESPACE stmixer:: DESTINATION ${STMIXER_CONFIG_DIR})

configure_package_config_file(cmake/stmixerConfig.cmake.in stmixerConfig.cmake
  INSTALL_DESTINATION ${STMIXER_CONFIG_DIR})
write_basic_package_version_file(stmixerConfigVersion.cmake COMPATIBILITY SameMinorVersion)
# From the folder of the .pc file, so that an installation may be moved.
file(RELATIVE_PATH STMIXER_PC_TO_PREFIX
  ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/stmixer.pc.in stmixer.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/stmixerConfig.cmake
  ${PROJECT_BINARY_DIR}/stmixerConfigVersion.cmake DESTINATION ${STMIXER_CONFIG_DIR})
install(FILES ${PROJECT_BINARY_DIR}/stmixer.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
