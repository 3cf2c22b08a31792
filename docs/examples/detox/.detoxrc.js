// Say where your builds are: paths begin in the folder in which you run the script, which is your app's.
module.exports = {
  testRunner: { args: { $0: 'jest', config: `${__dirname}/jest.config.js` } },
  apps: {
    ios: {
      type: 'ios.app',
      binaryPath: 'ios/build/Build/Products/Debug-iphonesimulator/Acme.app',
    },
    android: {
      type: 'android.apk',
      binaryPath: 'android/app/build/outputs/apk/debug/app-debug.apk',
    },
  },
  devices: {
    ios: { type: 'ios.simulator', device: { type: 'iPhone 16' } },
    android: { type: 'android.emulator', device: { avdName: 'Pixel_8' } },
  },
  configurations: {
    ios: { device: 'ios', app: 'ios' },
    android: { device: 'android', app: 'android' },
  },
};
